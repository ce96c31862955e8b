"""Measurements of flow families: largest errors of round trip and log-determinant, and costs of both directions.

    python benchmarks/flow_families.py errors            # float32 and float64, |z| up to 40, three states
    python benchmarks/flow_families.py costs maf iaf nsf # passes, and time of a draw over time of a density

The names of families are optional.

States of the parameters: *start* is the identity (or near it); in *large*, every parameter is perturbed by 0.3 ε with
ε ~ N(0, 1); *trained* is fitted by maximum likelihood to a two-dimensional pinwheel in every pair of dimensions.
"""

from __future__ import annotations

import copy
import statistics
import sys
import time
import warnings

import pandas as pd
import torch
from torch import Tensor, nn
from zuko.lazy import LazyTransform

from flowvae.core.registry import families
from flowvae.core.seeds import derive, seeded
from flowvae.data import Pinwheel
from flowvae.flows import FlowSpec

FEATURES = 4
REACHES = (0.1, 3.0, 12.0, 40.0)
STEPS = 300


def states(flow: FlowSpec) -> dict[str, LazyTransform]:
    """Return the family's transform in three states of its parameters."""
    with seeded(derive(0, "start")):
        start = flow.transform(FEATURES)
    large = copy.deepcopy(start)
    with seeded(derive(0, "large")), torch.no_grad():
        for parameter in large.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return {"start": start, "large": large, "trained": trained(flow, copy.deepcopy(start))}


def trained(flow: FlowSpec, transform: LazyTransform) -> LazyTransform:
    """Fit a transform to pinwheel codes by maximum likelihood; one with slow densities is fitted as its inverse."""
    _, z, _ = Pinwheel().simulate(2000, seed=0)
    data = torch.cat([z[:1000], z[1000:]], dim=-1)
    slow = flow.cost(FEATURES).density > flow.cost(FEATURES).sample_and_density
    optim = torch.optim.Adam(transform.parameters(), lr=3e-3)
    for _ in range(STEPS):
        optim.zero_grad()
        u, log_det = (transform().inv if slow else transform()).call_and_ladj(data)
        loss = (0.5 * u.square().sum(-1) - log_det).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(transform.parameters(), 10.0)
        optim.step()
    return transform


def round_trip(transform: LazyTransform, reach: float, dtype: torch.dtype) -> float:
    """Return the largest |T⁻¹(T(z)) − z| over 200 draws z = reach · N(0, I), relative to max(reach, 1)."""
    module = copy.deepcopy(transform).to(dtype)
    with seeded(derive(0, "codes", str(reach))):
        z = reach * torch.randn(200, FEATURES, dtype=dtype)
    try:
        with torch.no_grad():
            back = module().inv(module()(z))
    except (ValueError, ArithmeticError):
        return float("nan")
    return float((back - z).abs().max() / max(reach, 1.0))


def log_determinant(transform: LazyTransform) -> float:
    """Return the largest error against autograd in float64, relative if the value is above 1; 20 codes of scale 2."""
    module = copy.deepcopy(transform).double()
    with seeded(derive(0, "log-determinant")):
        codes = 2 * torch.randn(20, FEATURES, dtype=torch.float64)
    worst = 0.0
    for z in codes:
        _, log_det = module().call_and_ladj(z)
        truth = torch.linalg.slogdet(torch.autograd.functional.jacobian(module(), z))[1]
        worst = max(worst, float((log_det - truth).abs() / truth.abs().clamp_min(1.0)))
    return worst


def errors(names: list[str]) -> pd.DataFrame:
    """Return errors, one row per family and state."""
    rows = []
    for name in names:
        flow = families("flow")[name].default
        for state, transform in states(flow).items():
            row: dict[str, object] = {"family": name, "state": state, "log det": log_determinant(transform)}
            for dtype in (torch.float32, torch.float64):
                for reach in REACHES:
                    bits = str(dtype).removeprefix("torch.float")
                    row[f"{bits}: {reach:g}"] = round_trip(transform, reach, dtype)
            rows.append(row)
            print(row, file=sys.stderr)
    return pd.DataFrame(rows)


def seconds(call: object, repeats: int = 4) -> float:
    """Measure the median time of a call in seconds."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()  # type: ignore[operator]
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def costs(names: list[str]) -> pd.DataFrame:
    """Return passes and the time of a draw over that of a density, at three latent sizes (batch of 256)."""
    rows = []
    for name in names:
        row: dict[str, object] = {"family": name}
        for features in (8, 32, 64):
            flow = families("flow")[name].default
            distribution = flow.build(features)()
            z: Tensor = torch.randn(256, features)
            with torch.no_grad():
                density = seconds(lambda d=distribution, z=z: d.log_prob(z))
                draw = seconds(lambda d=distribution: d.sample((256,)))
            cost = flow.cost(features)
            row[f"passes, D = {features}"] = f"{cost.density} / {cost.sample} / {cost.sample_and_density}"
            row[f"draw/density, D = {features}"] = f"{draw / density:.2f}"
        rows.append(row)
        print(row, file=sys.stderr)
    return pd.DataFrame(rows)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    names = sys.argv[2:] or [name for name, family in families("flow").items() if not family.default.wraps]
    table = {"errors": errors, "costs": costs}[sys.argv[1]](names)
    print(table.to_string(index=False, float_format="%.1e"))
