"""Growth of the cost of guides with the number of latent variables D, compared with Pyro's guides.

    python benchmarks/autoguide_growth.py                       # milliseconds per step against D
    python benchmarks/autoguide_growth.py --latents 10 100      # a part of it
    python benchmarks/autoguide_growth.py --network             # ELBO of a Bayesian neural network of 10,071 weights

Every cell has a separate process with one thread and a time limit, so that cells cannot affect each other. The time per
step of a cell is CPU time, from the difference of two fits with few and many steps, in which building the guide,
preparation and capture cancel. `slope` is that of log time over log D between the last two cells. A guide whose
networks have a fixed width takes O(D) multiplications per draw and has slope 1; a full covariance, and Pyro's default
IAF, whose hidden layer has width D, have slope 2.

The model is a cheap one, D independent Gaussian data points, so that the time is that of the guide. Flows have their
default sizes; 16 draws per step. `setup` is the time of the first call of the guide, `memory` the peak of the process
above that after the imports.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import multiprocessing
import resource
import time
import warnings
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import (
    AutoDiagonalNormal,
    AutoIAFNormal,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
)
from torch import Tensor, nn

from flowvae.flows import IAF, CouplingNSF, Linear, RealNVP
from flowvae.guides import AutoFlow
from flowvae.inference import GuideSettings, fit_autoguide

GUIDES: dict[str, Callable[[Any], nn.Module]] = {
    "AutoFlow IAF": lambda model: AutoFlow(model, IAF()),
    "AutoFlow coupling NSF": lambda model: AutoFlow(model, CouplingNSF()),
    "AutoFlow RealNVP": lambda model: AutoFlow(model, RealNVP()),
    "AutoFlow linear": lambda model: AutoFlow(model, Linear(), affine="diagonal"),
    "Pyro AutoIAFNormal": AutoIAFNormal,
    "Pyro AutoLowRankMultivariateNormal": AutoLowRankMultivariateNormal,
    "Pyro AutoMultivariateNormal": AutoMultivariateNormal,
    "Pyro AutoDiagonalNormal": AutoDiagonalNormal,
}
NETWORK = tuple(name for name in GUIDES if name not in ("AutoFlow linear", "Pyro AutoMultivariateNormal"))
LATENTS = (10, 100, 1000, 10_000)
DRAWS = 16
MIB = 2**20


def gaussians(latents: int) -> Callable[[], None]:
    """Return a model of D independent Gaussian data points with unknown means."""
    x = torch.randn(latents, generator=torch.Generator().manual_seed(0))

    def model() -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros(latents), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)

    return model


def network(inputs: int = 8, width: int = 95, data: int = 500) -> Callable[[], None]:
    """Return a regression by a network with two hidden layers, weights ~ N(0, 1 / inputs of the layer), noise 0.1."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(data, inputs, generator=generator)
    noise = torch.randn(data, generator=generator)
    y = (2 * x[:, 0]).sin() + x[:, 1] * x[:, 2] + 0.1 * noise

    def layer(name: str, fan_in: int, fan_out: int) -> tuple[Tensor, Tensor]:
        weight = pyro.sample(f"{name}.weight", dist.Normal(torch.zeros(fan_in, fan_out), fan_in**-0.5).to_event(2))
        bias = pyro.sample(f"{name}.bias", dist.Normal(torch.zeros(1, fan_out), 1.0).to_event(2))
        return weight, bias

    def model() -> None:
        h = x
        for number, sizes in enumerate(((inputs, width), (width, width), (width, 1))):
            weight, bias = layer(f"layer{number}", *sizes)
            h = (h if not number else h.tanh()) @ weight + bias
        pyro.sample("y", dist.Normal(h.squeeze(-1), 0.1).to_event(1), obs=y)

    return model


def step_seconds(name: str, latents: int, limit: float) -> dict[str, float]:
    """Measure seconds per step, seconds of the first call, and memory in MiB."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    model = gaussians(latents)
    started = time.process_time()
    guide = GUIDES[name](model)
    guide()
    setup = time.process_time() - started

    def fit(steps: int) -> float:
        started = time.process_time()
        settings = GuideSettings(steps=steps, learning_rate=1e-5, particles=DRAWS, compile="capture", units=0)
        fit_autoguide(model, guide, settings, progress=False)
        return time.process_time() - started

    fit(1)  # the first run of anything is slow
    short = fit(3)
    steps = max(3, min(300, int(limit / 60 / max(1e-4, short / 3))))
    second = (fit(3 + steps) - fit(3)) / steps
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
    return {"step": max(second, 0.0), "setup": setup, "memory": memory}


def network_elbo(name: str, steps: int, rate: float) -> dict[str, float]:
    """Fit a guide; return the ELBO in nats from 1000 draws, its standard error, and seconds of the fit."""
    model = network()
    guide = GUIDES[name](model)
    started = time.process_time()
    found = fit_autoguide(model, guide, GuideSettings(steps=steps, learning_rate=rate, particles=DRAWS), progress=False)
    seconds = time.process_time() - started
    torch.manual_seed(1)
    elbo = Trace_ELBO(num_particles=100, vectorize_particles=True, max_plate_nesting=0)
    with torch.no_grad():
        values = torch.tensor([-elbo.loss(model, guide) for _ in range(10)])
    return {"elbo": values.mean().item(), "se": values.std().item() / 10**0.5, "seconds": seconds, "path": found.path}


def _cell(task: tuple[Any, ...], limit: float, pipe: Any) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(limit),) * 2)  # ends the process even if its parent is gone
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("pyro").setLevel(logging.WARNING)
    measure, *arguments = task
    try:
        pipe.send(measure(*arguments))
    except (Exception, MemoryError) as error:
        pipe.send(f"{type(error).__name__}: {error}"[:120])


def measured(limit: float, *task: Any) -> dict[str, float] | str:
    """Run a task in a separate process; return its result, or the reason why it has none."""
    context = multiprocessing.get_context("spawn")
    mine, its = context.Pipe()
    process = context.Process(target=_cell, args=(task, limit, its), daemon=True)
    process.start()
    its.close()
    try:
        found = mine.recv() if mine.poll(limit) else f"over {limit:g} s"
    except EOFError:
        found = "killed, out of memory"
    process.kill()
    process.join()
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--latents", type=int, nargs="+", default=LATENTS)
    parser.add_argument("--guides", nargs="+", default=None, choices=tuple(GUIDES))
    parser.add_argument("--limit", type=float, default=240.0, help="time limit of a cell in seconds")
    parser.add_argument("--network", action="store_true", help="ELBO of a Bayesian neural network instead")
    parser.add_argument("--steps", type=int, default=1500, help="steps of the network's fit")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="learning rate of the network's fit")
    parser.add_argument("--json", help="file for the results")
    options = parser.parse_args()
    rows: dict[str, Any] = {}
    if options.network:
        print(f"{'guide':36}{'ELBO, nats':>14}{'± se':>8}{'CPU s':>8}  gradients", flush=True)
        for name in options.guides or NETWORK:
            found = rows[name] = measured(10 * options.limit, network_elbo, name, options.steps, options.learning_rate)
            if isinstance(found, str):
                print(f"{name:36}{found:>14}", flush=True)
            else:
                kind = "path" if found["path"] else "plain"
                print(f"{name:36}{found['elbo']:14.1f}{found['se']:8.1f}{found['seconds']:8.0f}  {kind}", flush=True)
    else:
        print(
            f"{'ms per step':36}" + "".join(f"{n:>10}" for n in options.latents) + "   slope   setup s   MiB (last)",
            flush=True,
        )
        for name in options.guides or GUIDES:
            cells = rows[name] = [
                measured(options.limit, step_seconds, name, n, options.limit) for n in options.latents
            ]
            times = [cell["step"] if isinstance(cell, dict) else math.nan for cell in cells]
            text = f"{name:36}" + "".join("         –" if math.isnan(t) else f"{1000 * t:10.2f}" for t in times)
            if len(times) > 1 and times[-1] > 0 and times[-2] > 0:
                slope = math.log(times[-1] / times[-2]) / math.log(options.latents[-1] / options.latents[-2])
                text += f"{slope:8.2f}"
            if isinstance(cells[-1], dict):
                text += f"{cells[-1]['setup']:10.1f}{cells[-1]['memory']:8.0f}"
            print(text, flush=True)
            for n, cell in zip(options.latents, cells, strict=True):
                if isinstance(cell, str):
                    print(f"    D = {n}: {cell}", flush=True)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
