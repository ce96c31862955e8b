"""Profile of a training step: by hand, in `fit` without compilation, and in `fit` with a captured program.

    python benchmarks/profile_step.py --out runs/bench        # prints the table, writes profile_step.json and .txt

A case is that of `training_step.py` with the same name: same networks and batches, one thread, interleaved steps. Rows,
in milliseconds, means over the steps after a warm-up:

    forward: the loss. With Pyro: model and guide under their handlers, and the ELBO; the difference to "by hand", which
        computes the same, is the cost of handlers, traces and distributions.
    backward: autograd. In a captured program, loss and gradients cannot be separated: "program".
    optimizer: clipping, and one fused Adam.
    rest: collecting the parameters, resetting gradients, reading the loss.

The times are measured by clocks around the functions, which take a fraction of a microsecond each; a tracing profiler
would slow down small operations and so overestimate their share.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn
from training_step import (
    CASES,
    CLIP,
    SIZES,
    batches,
    build,
    by_hand,
    machine,
    objective_of_fit,
    plain_loop,
    step_of_fit,
)

from flowvae.inference import Training

PARTS = ("forward", "backward", "program", "optimizer", "rest")
WARM_UP = 5


class Clock:
    """Accumulated seconds inside functions, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a function with a timer."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[name] += time.perf_counter() - started

        return timed


def arms(name: str) -> dict[str, tuple[Callable[..., float], Clock]]:
    """Return the arms' steps, with their clocks."""
    size_name, prior, guide = name.split("/")
    size = SIZES[size_name]
    made: dict[str, tuple[Callable[..., float], Clock]] = {}

    clock = Clock()
    parameters, loss = by_hand(*build(size, prior, guide), size)
    made["by hand"] = plain_loop(parameters, clock.around("forward", loss)), clock
    for arm, mode in (("fit", "none"), ("capture", "capture")):
        clock = Clock()
        objective = objective_of_fit(
            *build(size, prior, guide), Training(batch_size=size["batch"], compile=mode, clip=CLIP)
        )
        objective.svi.loss_and_grads = clock.around("loss and gradients", objective.svi.loss_and_grads)
        objective.svi.optim = clock.around("optimizer", objective.svi.optim)
        made[arm] = step_of_fit(objective), clock
    return made


def profile(name: str, steps: int) -> dict[str, dict[str, float]]:
    """Measure milliseconds per step of each arm, by part, and their sum."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    data = batches(SIZES[name.split("/")[0]])
    found = arms(name)
    totals = dict.fromkeys(found, 0.0)
    for index in range(-WARM_UP, steps):
        for arm, (step, clock) in found.items():
            if index == 0:
                clock.seconds.clear()
            # the optimizer of `fit` is timed as a whole; by hand it consists of two functions of torch
            pieces = [mock.patch.object(torch.Tensor, "backward", clock.around("backward", torch.Tensor.backward))]
            if arm == "by hand":
                adam = torch.optim.Adam
                pieces.append(mock.patch.object(adam, "step", clock.around("optimizer", adam.step)))
                clip = clock.around("optimizer", nn.utils.clip_grad_norm_)
                pieces.append(mock.patch.object(nn.utils, "clip_grad_norm_", clip))
            for piece in pieces:
                piece.start()
            started = time.perf_counter()
            step(data[index % len(data)])
            totals[arm] += (time.perf_counter() - started) if index >= 0 else 0.0
            for piece in pieces:
                piece.stop()
    return {arm: _parts(clock.seconds, totals[arm], steps) for arm, (_, clock) in found.items()}


def _parts(seconds: dict[str, float], total: float, steps: int) -> dict[str, float]:
    parts = dict.fromkeys(PARTS, 0.0)
    parts["backward"], parts["optimizer"] = seconds.get("backward", 0.0), seconds["optimizer"]
    parts["forward"] = seconds.get("forward", 0.0)
    if "loss and gradients" in seconds:
        rest = seconds["loss and gradients"] - parts["backward"]
        parts["forward" if parts["backward"] else "program"] = rest
    parts["rest"] = total - sum(parts.values())
    return {part: 1000 * value / steps for part, value in {**parts, "step": total}.items()}


def table(name: str, found: dict[str, dict[str, float]], steps: int, facts: dict[str, Any]) -> str:
    """Format the parts: milliseconds, and shares of the arm's step."""
    lines = [str(facts), "", f"{name}: milliseconds per step and share, mean of {steps} steps"]
    lines.append(f"{'':10}" + "".join(f"{arm:>16}" for arm in found))
    for part in (*PARTS, "step"):
        cells = [
            f"{parts[part]:8.2f} {100 * parts[part] / parts['step']:5.0f} %" if parts[part] else "-"
            for parts in found.values()
        ]
        lines.append(f"{part:10}" + "".join(f"{cell:>16}" for cell in cells))
    handlers = found["fit"]["forward"] - found["by hand"]["forward"]
    lines.append(f"handlers, traces and distributions in fit: {handlers:.2f} ms (its forward minus that by hand)")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Profile one case, print the table and write it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--case", default="digits-128/maf/gaussian", choices=CASES, metavar="CASE")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--out", type=Path, help="a folder")
    given = parser.parse_args()
    facts = machine()
    found = profile(given.case, given.steps)
    text = table(given.case, found, given.steps, facts)
    print(text)
    if given.out:
        given.out.mkdir(parents=True, exist_ok=True)
        stored = {"machine": facts, "case": given.case, "steps": given.steps, "milliseconds": found}
        (given.out / "profile_step.json").write_text(json.dumps(stored, indent=1))
        (given.out / "profile_step.txt").write_text(text)


if __name__ == "__main__":
    main()
