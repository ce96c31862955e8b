"""Costs of likelihood estimates: importance sampling and annealed importance sampling.

    python benchmarks/likelihoods.py                    # 1000 draws for each of 1000 images, AIS of 64 digits
    python benchmarks/likelihoods.py --images 64        # a trial
    python benchmarks/likelihoods.py --old FOLDER       # alternating with the package in that folder

One thread, initial weights, random data. Every case runs in a separate process, which also measures the peak speed of
matrix products (2048 × 2048, float32, the best of several). Times are CPU times, the minimum of several repetitions,
and include the capture of programs.

Cases:
    mlp: 784 pixels, Bernoulli, 40 latents, two hidden layers of 128 in the decoder; standard normal prior, Gaussian
        guide. GFLOP/s counts the multiplications and additions of the decoder alone, two per weight.
    gated: the same with two gated layers of 300.
    ais: 64 digits of 8 × 8 grey levels, 8 latents, two hidden layers of 128; 16 chains (and 4 pilots), 500
        temperatures, 5 leapfrog steps. A gradient counts the decoder twice.
    ais-maf: the same with an autoregressive flow for prior.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from training_step import SIZES, build

from flowvae.evaluation import AnnealedHMC, measure_ais, measure_likelihoods

CASES = ("mlp", "gated", "ais", "ais-maf")


def least(function: Callable[[], object], repetitions: int) -> float:
    """Return the minimum CPU time of several calls in seconds."""
    times = []
    for _ in range(repetitions):
        started = time.process_time()
        function()
        times.append(time.process_time() - started)
    return min(times)


def peak() -> float:
    """Measure the operations per second of a large matrix product."""
    n = 2048
    a, b = torch.randn(n, n), torch.randn(n, n)
    out = torch.empty(n, n)
    return 2 * n**3 / least(lambda: torch.mm(a, b, out=out), 7)


def operations(decoder: nn.Module) -> int:
    """Count the multiplications and additions of a decoder for one code."""
    return sum(2 * layer.weight.numel() for layer in decoder.modules() if isinstance(layer, nn.Linear))


def noise(rows: int, features: int, largest: int) -> Tensor:
    """Return random whole numbers from 0 to `largest` as data."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, largest + 1, (rows, features), generator=generator).float()


def case(name: str, images: int, draws: int, temperatures: int, repetitions: int) -> dict[str, Any]:
    """Measure one case in this process."""
    torch.set_num_threads(1)
    kind, _, prior = name.partition("-")
    size = SIZES["digits-128"] if kind == "ais" else SIZES["mnist-100"]
    size = size | {"width": 128, "gated": False} if kind == "mlp" else size
    model, guide = build(size, prior or "normal", "gaussian")
    best = peak()
    if kind == "ais":
        x, settings = noise(64, size["data"], 16), AnnealedHMC(16, temperatures, 5)
        found = measure_ais(model, guide, x, settings)
        seconds = least(lambda: measure_ais(model, guide, x, settings), repetitions)
        value = found.log_evidence.mean().item()
        work = 2 * operations(model.decoder) * 64 * (16 + 4) * 5 * (temperatures - 1)
    else:
        x = noise(images, size["data"], 1)
        warm = measure_likelihoods(model, guide, x[:64], min(draws, 250))
        value = warm.log_evidence.mean().item()
        seconds = least(lambda: measure_likelihoods(model, guide, x, draws), repetitions)
        work = operations(model.decoder) * images * draws
    return {"seconds": seconds, "units": images * draws, "work": work, "peak": best, "value": value}


def line(name: str, arm: str, found: dict[str, Any]) -> str:
    """Format one row of the table."""
    speed = found["work"] / found["seconds"]
    draw = "" if name.startswith("ais") else f"{1e6 * found['seconds'] / found['units']:.2f}"
    return (
        f"{name:8} {arm:4} {found['seconds']:8.2f} {draw:>11} {speed / 1e9:8.1f} {found['peak'] / 1e9:6.1f} "
        f"{speed / found['peak']:6.0%} {found['value']:12.4f}"
    )


def main() -> None:
    """Run every case in a separate process, alternating between the old package and this one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", nargs="*", default=CASES, choices=CASES, metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--temperatures", type=int, default=500)
    parser.add_argument("--repetitions", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1, help="processes of each arm; the minimum time counts")
    parser.add_argument("--old", type=Path, help="a folder with another version of the package `flowvae`")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    numbers = [given.images, given.draws, given.temperatures, given.repetitions]
    if given.one:
        print(json.dumps(case(given.one, *numbers)))
        return
    print("case     arm   seconds  µs per draw  GFLOP/s   peak  share        value")
    arms = {"new": None} if given.old is None else {"old": given.old, "new": None}
    names = ("--images", "--draws", "--temperatures", "--repetitions")
    options = [text for pair in zip(names, map(str, numbers), strict=True) for text in pair]
    for name in given.cases:
        results: dict[str, list[dict[str, Any]]] = {arm: [] for arm in arms}
        for _ in range(given.rounds):
            for arm, folder in arms.items():
                environment = os.environ | {"OMP_NUM_THREADS": "1"}
                if folder is not None:
                    environment["PYTHONPATH"] = str(folder.resolve())
                command = [sys.executable, __file__, "--one", name, *options]
                done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
                if done.returncode:
                    sys.exit(f"{name}, {arm}: failed\n{done.stderr[-2000:]}")
                results[arm].append(json.loads(done.stdout.splitlines()[-1]))
        for arm, found in results.items():
            print(line(name, arm, min(found, key=lambda each: each["seconds"])), flush=True)


if __name__ == "__main__":
    main()
