"""Growth of time and memory of training steps, draws from the prior and the importance-weighted bound.

    python benchmarks/growth.py --out runs/bench             # growth.json, growth.txt, growth.png
    python benchmarks/growth.py --out runs/quick --quick     # a few small points, as a test

The pair: 64 counts of 0 to 16, two hidden layers of 128 in encoder and decoder, a Gaussian guide; the prior is a MAF
or an NSF (4 bins) with one hidden layer of 32. One setting is changed at a time, from latent 8, batch 128, three
transforms, one particle. A step is that of `fit`: "none" runs model and guide, "capture" the captured program. Every
point has a separate process with one thread.

Time is the median of a step. Memory is the peak of the process above that before the pair was built, after a warm-up on
a tiny pair that loads the code: parameters, Adam's moments, data and activations and, with "capture", the capture; on
Linux `later_peak_mib` in the JSON file is the peak after the first three steps. It is the system's number, in pages,
and the allocator keeps freed memory, so differences below 1 MiB are not meaningful.

The prediction of theory for the time is the number of multiplications in the matrix products, `multiplications`; hidden
widths h and w are fixed. B data points, K particles, D latent, T transforms, p numbers per dimension (MAF 2, NSF 11):

    encoder, once per data point  B (64 w + w² + 2 w D)
    decoder, once per particle    B K (D w + w² + 64 w)
    prior, normalizing direction  B K T (D h + h p D)       masks do not save multiplications
    a step                        three times these: forward, gradients of weights and of inputs (none of the data)
    a draw, generative direction  B T D (D h + h p D)       one pass per dimension
    bound L_K, N data points      N K (decoder + prior), N ⌈K / 250⌉ encoder
    an epoch of N data points     N / B steps

Element-wise work grows in the same way. So a step is affine in each of B, K, T and D, of order 1, and does not depend
on N; a draw is of order 2 in D. An epoch is measured as a `fit` of one epoch, including its capture and the validation
on 128 data points. For small settings, constants dominate: so the measured growth is the slope of log time over log
setting, by least squares over the three largest settings, and it is compared with the slope of log multiplications over
the same points. Memory is affine too: weights in D and T, activations in B, K, T and D, data in N; the bound needs 250
draws at a time and, of order K, the codes and weights that it keeps.

The leak check takes 10,000 steps and reads the process's memory regularly; growth after the first tenth is reported in
bytes per step.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import resource
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Size, nn
from training_step import SIZES, batches, layers, machine, objective_of_fit, step_of_fit

from flowvae.core.seeds import derive, seeded
from flowvae.evaluation.likelihood.iwae import measure_iwae
from flowvae.flows import MAF, NSF
from flowvae.guides import AmortizedGuide, Gaussian
from flowvae.inference import Training, fit
from flowvae.models import VAE, BinomialLikelihood
from flowvae.networks import Standardize

DATA, WIDTH, HIDDEN, BINS, AT_HAND = 64, 128, 32, 4, 250
NUMBERS = {"maf": 2, "nsf": 3 * BINS - 1}  # outputs of the prior's networks per dimension
END = 3  # number of the largest settings, over which growth is measured
MIB = 2**20
TRAINING = ("step", "epoch")  # tasks with several modes


@dataclass(frozen=True)
class Point:
    """One measurement: `task` is "step", "epoch", "draw" (from the prior) or "bound" (L_K of 64 data points)."""

    task: str = "step"
    prior: str = "maf"
    mode: str = "capture"
    latent: int = 8
    batch: int = 128
    transforms: int = 3
    particles: int = 1
    data: int = 1024


@dataclass(frozen=True)
class Axis:
    """The setting that is varied, and its values."""

    title: str
    setting: str
    values: tuple[int, ...]
    task: str = "step"

    def points(self, prior: str, mode: str) -> list[Point]:
        """Return the points of one curve."""
        start = Point(self.task, prior, mode, batch=64 if self.task == "bound" else 128)
        return [replace(start, **{self.setting: value}) for value in self.values]


AXES = (
    Axis("step: latent size D", "latent", (2, 4, 8, 16, 32, 64, 128, 256)),
    Axis("step: batch B", "batch", (32, 64, 128, 256, 512, 1024, 2048, 4096)),
    Axis("step: transforms T", "transforms", (1, 2, 4, 6, 8)),
    Axis("step: particles K", "particles", (1, 2, 4, 8, 16, 32, 64)),
    Axis("epoch: data N", "data", (1024, 4096, 16_384, 65_536, 262_144), "epoch"),
    Axis("draws: latent size D", "latent", (2, 4, 8, 16, 32, 64, 128), "draw"),
    Axis("bound: samples K", "particles", (50, 250, 1000, 2000, 4000, 8000), "bound"),
)
QUICK = (
    Axis("step: latent size D", "latent", (2, 4)),
    Axis("epoch: data N", "data", (256, 512), "epoch"),
    Axis("bound: samples K", "particles", (20, 40), "bound"),
)


def pair(point: Point) -> tuple[VAE, AmortizedGuide]:
    """Build model and guide of a point."""
    flow = {"maf": MAF, "nsf": NSF}[point.prior](transforms=point.transforms, hidden_features=(HIDDEN,))
    with seeded(derive(0, "networks")):
        counts = BinomialLikelihood(16)
        likelihood = counts.build(Size((DATA,)), counts.units(torch.zeros(1, DATA)))
        encoder = nn.Sequential(Standardize(likelihood.center, likelihood.unit), *layers(DATA, WIDTH, False))
        decoder = nn.Sequential(*layers(point.latent, WIDTH, False), nn.Linear(WIDTH, DATA))
        model = VAE(flow.build(point.latent), decoder, likelihood)
        return model, AmortizedGuide(encoder, Gaussian().build(point.latent, WIDTH))


def multiplications(point: Point) -> int:
    """Count the multiplications in the matrix products of a point, by the formulas in the module's docstring."""
    rows, codes = point.batch, point.batch * point.particles
    encoder = DATA * WIDTH + WIDTH * WIDTH + 2 * WIDTH * point.latent
    decoder = point.latent * WIDTH + WIDTH * WIDTH + WIDTH * DATA
    prior = point.transforms * (point.latent * HIDDEN + HIDDEN * NUMBERS[point.prior] * point.latent)
    if point.task == "draw":
        return rows * prior * point.latent
    if point.task == "bound":
        return math.ceil(point.particles / AT_HAND) * rows * encoder + codes * (decoder + prior)
    step = 3 * (rows * encoder + codes * (decoder + prior)) - rows * DATA * WIDTH
    return step * point.data // point.batch if point.task == "epoch" else step


def job(point: Point) -> Callable[[], Any]:
    """Return the function that is timed."""
    model, guide = pair(point)
    data = batches({**SIZES["digits-128"], "batch": point.batch})
    if point.task == "draw":
        prior = model.prior()

        @torch.no_grad()
        def draw() -> None:
            prior.sample((point.batch,))

        return draw
    if point.task == "bound":
        return lambda: measure_iwae(model, guide, data[0], samples=(point.particles,), compile=point.mode)
    settings = Training(batch_size=point.batch, particles=point.particles, compile=point.mode)
    if point.task == "epoch":
        train = torch.randint(17, (point.data, DATA), generator=torch.Generator().manual_seed(0)).float()
        once = replace(settings, epochs=1)
        return lambda: fit(model, guide, train, train[:128], once, seed=0, progress=False)
    step = step_of_fit(objective_of_fit(model, guide, settings))
    taken = iter(range(sys.maxsize))
    return lambda: step(data[next(taken) % len(data)])


def held() -> int:
    """Return the current memory of the process in bytes; its peak, if the system does not report it."""
    pages = Path("/proc/self/statm")
    return int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if pages.exists() else peak()


def peak() -> int:
    """Return the peak memory of the process in bytes. Linux's `ru_maxrss` may be that of the parent process."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def forget_peak() -> bool:
    """Reset the peak memory, if the system supports it; return whether it does."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def prepare(point: Point) -> None:
    """Load all code that the point's task needs, with a tiny pair."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    tiny = job(replace(point, latent=2, batch=8, transforms=1, data=64, particles=50 if point.task == "bound" else 1))
    for _ in range(4):
        tiny()


def measure(point: Point, seconds: float) -> dict[str, Any]:
    """Measure a point with repeats for about this many seconds: median, minimum, number of repeats, peak memory."""
    prepare(point)
    before = held()
    run = job(point)
    for _ in range(3):  # capture, and the two steps that verify it
        run()
    first = peak()
    forgotten = forget_peak()
    times: list[float] = []
    while len(times) < 5 or (sum(times) < seconds and len(times) < 300):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return {
        **asdict(point),
        "median_ms": 1000 * statistics.median(times),
        "least_ms": 1000 * min(times),
        "repeats": len(times),
        "peak_mib": max(first - before, peak() - before, 0) / MIB,
        "later_peak_mib": max(peak() - before, 0) / MIB if forgotten else None,
        "multiplications": multiplications(point),
    }


def leak(mode: str, steps: int) -> dict[str, Any]:
    """Measure the growth of memory over many steps (batch 32, MAF prior)."""
    point = Point(mode=mode, batch=32)
    prepare(point)
    run = job(point)
    readings = []
    for step in range(1, steps + 1):
        run()
        if step % max(1, steps // 20) == 0:
            readings.append((step, held()))
    after = np.array([reading for reading in readings if reading[0] >= steps / 10], dtype=float)
    slope = float(np.polyfit(after[:, 0], after[:, 1], 1)[0])
    return {
        "mode": mode,
        "steps": steps,
        "growth_mib": (after[-1, 1] - after[0, 1]) / MIB,
        "bytes_a_step": slope,
        "readings": readings,
    }


def alone(function: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Run a function in a separate process, and return its result.

    Raises:
        RuntimeError: if the process ends without a result; the process prints its error, unless it was killed.
    """
    context = multiprocessing.get_context("fork")  # keeps the imported modules
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=lambda: sender.send(function(*arguments)))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        raise RuntimeError(f"{function.__name__}{arguments}: no result; the process has ended") from None
    finally:
        process.join()


def slope(x: list[float], y: list[float]) -> float:
    """Return the slope of log y over log x by least squares, at the `END` largest x."""
    return float(np.polyfit(np.log(x[-END:]), np.log(np.maximum(y[-END:], 1e-9)), 1)[0])


def curve(axis: Axis, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the growth along one curve, measured and predicted by the multiplications."""
    x = [row[axis.setting] for row in rows]
    return {
        "axis": axis.title,
        "prior": rows[0]["prior"],
        "mode": rows[0]["mode"],
        "range": [x[-END:][0], x[-1]],
        "time": slope(x, [row["median_ms"] for row in rows]),
        "theory": slope(x, [row["multiplications"] for row in rows]),
        "order": 2 if axis.task == "draw" else 1,
        "memory": slope(x, [row["peak_mib"] for row in rows]),
        "rows": rows,
    }


def table(curves: list[dict[str, Any]], leaks: list[dict[str, Any]], facts: dict[str, Any]) -> str:
    """Format growth and leaks."""
    lines = [str(facts), ""]
    lines += [
        "growth: slope of the logarithm over the range; theory: slope of multiplications; order: as the setting → ∞"
    ]
    lines += [
        f"{'':22} {'prior':5} {'step':8} {'range':>11} {'time':>6} {'theory':>6} {'order':>5} {'memory':>6} at the end"
    ]
    for one in curves:
        last, (low, high) = one["rows"][-1], one["range"]
        end = f"{last['median_ms']:.2f} ms, {last['peak_mib']:.0f} MiB"
        lines.append(
            f"{one['axis']:22} {one['prior']:5} {one['mode']:8} {low:>5}-{high:<5} {one['time']:6.2f} "
            f"{one['theory']:6.2f} {one['order']:5} {one['memory']:6.2f} {end}"
        )
    lines += ["", "memory over many steps (batch 32, MAF), after the first tenth"]
    lines += [
        f"{one['mode']:8} {one['steps']:>6} steps: {one['growth_mib']:+.2f} MiB, {one['bytes_a_step']:+.1f} B per step"
        for one in leaks
    ]
    return "\n".join(lines) + "\n"


def draw_curves(axes: tuple[Axis, ...], curves: list[dict[str, Any]]) -> Figure:
    """Plot time above and memory below, one column per axis; dotted: multiplications, scaled to the last point."""
    figure = Figure(figsize=(3.2 * len(axes), 6.4), layout="constrained")
    panels = figure.subplots(2, len(axes), squeeze=False)
    looks = {"maf": ("black", "o"), "nsf": ("0.55", "s")}
    for axis, (above, below) in zip(axes, panels.T, strict=True):
        for one in (found for found in curves if found["axis"] == axis.title):
            x = [row[axis.setting] for row in one["rows"]]
            color, marker = looks[one["prior"]]
            times = [row["median_ms"] for row in one["rows"]]
            work = np.array([row["multiplications"] for row in one["rows"]], dtype=float)
            label = one["prior"].upper() + (
                {"capture": ", captured", "none": ", eager"}[one["mode"]] if axis.task in TRAINING else ""
            )
            line = "-" if one["mode"] == "capture" else "--"
            above.plot(x, times, line, color=color, marker=marker, markersize=4, label=label)
            below.plot(x, [row["peak_mib"] for row in one["rows"]], line, color=color, marker=marker, markersize=4)
            if one["mode"] == "capture":
                above.plot(x, work / work[-1] * times[-1], ":", color=color, linewidth=1)
        above.set_title(axis.title, fontsize=10)
        for panel, unit in ((above, "median time, ms"), (below, "peak memory, MiB")):
            panel.set_xscale("log", base=2)
            panel.set_yscale("log")
            panel.set_xlabel(axis.title.split(": ")[1])
            panel.set_ylabel(unit)
            panel.grid(True, color="0.9")
        above.legend(fontsize=7)
    return figure


def main() -> None:
    """Measure every point in a separate process; write results, table and figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="a folder")
    parser.add_argument("--seconds", type=float, default=1.0, help="seconds of repeats per point")
    parser.add_argument("--steps", type=int, default=10_000, help="steps of the leak check")
    parser.add_argument("--quick", action="store_true", help="a few small points, as a test")
    given = parser.parse_args()
    axes = QUICK if given.quick else AXES
    seconds, steps = (0.0, 40) if given.quick else (given.seconds, given.steps)
    priors = ("maf",) if given.quick else ("maf", "nsf")
    facts, curves = machine(), []
    for axis, prior in product(axes, priors):
        for mode in ("capture", "none") if axis.task in TRAINING else ("capture",):
            rows = [alone(measure, point, seconds) for point in axis.points(prior, mode)]
            curves.append(curve(axis, rows))
            print(
                f"{axis.title}, {prior}, {mode}: " + ", ".join(f"{row['median_ms']:.2f}" for row in rows) + " ms",
                flush=True,
            )
    leaks = [alone(leak, mode, steps) for mode in ("capture", "none")]
    given.out.mkdir(parents=True, exist_ok=True)
    protocol = {"seconds": seconds, "end": END, "quick": given.quick}
    (given.out / "growth.json").write_text(
        json.dumps({"machine": facts, "protocol": protocol, "curves": curves, "leaks": leaks}, indent=1)
    )
    text = table(curves, leaks, facts)
    (given.out / "growth.txt").write_text(text)
    draw_curves(axes, curves).savefig(given.out / "growth.png", dpi=150)
    print(text)


if __name__ == "__main__":
    main()
