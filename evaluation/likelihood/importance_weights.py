"""Importance weights of a model/guide pair for each data point, on which all likelihood measures are based."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pyro
import torch
from torch import Tensor

from flowvae.core.errors import FlowvaeError, check_int_value
from flowvae.core.memory import check_memory
from flowvae.core.seeds import derive, random_state_kept, seeded
from flowvae.data.batch import Batch
from flowvae.evaluation.likelihood.sampler import Sampler, joined
from flowvae.inference.log_density import Draws, log_densities
from flowvae.inference.not_finite import broken_tensor, extreme_value
from flowvae.networks import check_data as check_tensor
from flowvae.networks import eval_mode

__all__ = ["Draws", "check_data", "check_draws", "importance_draws", "log_mean", "parts_of"]

ROWS = 64  # data points per block of random numbers; fixed, so that no result depends on the available memory
DRAWS = 250  # draws of the guide at a time; fixed, for the same reason
LIKE = 1e-2  # tolerated relative difference of log-densities of the same draw; the precision of some solvers


@torch.no_grad()
def importance_draws(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    x: Tensor | Batch,
    draws: int,
    seed: int,
    compile: str = "capture",  # noqa: A002  (torch's term)
    tick: Callable[[], Any] = lambda: None,
) -> Iterator[Draws]:
    """Draw from the guide for every data point, block by block, in evaluation mode.

    Args:
        model: Pyro model with any latent sites, in one plate of the data.
        guide: Pyro guide with the same sites.
        x: data, shape (N, *event shape), or a batch with a condition.
        draws: S, draws per data point.
        seed: random seed of the draws.
        compile: "capture", "inductor" or "none"; see `Sampler`. Inductor saves a part of the time of an expensive
            prior, after 5 to 40 seconds of compilation, which pays off above a few thousand data points.
        tick: called after each part of the work, `parts_of(len(x), draws)` times in all.

    Raises:
        FlowvaeError: for fewer than one draw or more than fit into memory, an unknown `compile`, data of another shape
            or type, a data point whose weights are not finite, and as `Sampler`.
    """
    batch = check_data(guide, x)
    check_int_value("draws", draws)
    sampler = Sampler(model, guide, compile)
    most = min(DRAWS, draws)
    for number, block in enumerate(batch.split(ROWS)):
        parts: list[Draws] = []
        with eval_mode(model, guide), seeded(derive(seed, "draws", number)), pyro.validation_enabled(False):
            for start in range(0, draws, most):
                parts.append(sampler(block, min(most, draws - start)))
                if number == start == 0:
                    latent = sum(value[0, 0].numel() for value in parts[0].latents.values())
                    check_draws(draws, batch, latent)
                    _check_guide_alone(guide, block, parts[0])
                tick()
        found = joined(parts)
        _check_finite(found.log_weight, model, guide, batch, number * ROWS)
        yield found


def check_data(guide: object, x: object) -> Batch:
    """Return the data as a batch, after checking that they are of the shape and type of the guide.

    Raises:
        FlowvaeError: for data of another shape or type.
    """
    batch = Batch.of(x)  # type: ignore[arg-type]
    if not isinstance(batch.x, Tensor) and hasattr(batch.x, "batches"):  # data not in memory: only the first one
        first: object = batch.x[torch.arange(min(1, len(batch)))]
    else:
        first = batch.x
    checked = check_tensor("x", first)
    if batch.c is not None and len(batch.c) != len(batch):
        raise FlowvaeError(f"c: {len(batch.c)} conditions for {len(batch)} data points; must be one per data point.")
    if (check := getattr(guide, "check", None)) is not None:
        check(checked)
    return batch


def parts_of(data: int, draws: int) -> int:
    """Number of parts into which `importance_draws` divides its work."""
    return math.ceil(data / ROWS) * max(1, math.ceil(draws / DRAWS))


def check_draws(draws: int, x: Tensor | Batch, latent: int) -> None:
    """Check that the draws per data point fit into memory.

    Args:
        draws: S.
        x: data, shape (N, *event shape), or a batch.
        latent: number of latent values per data point.

    Raises:
        FlowvaeError: if they do not fit.
    """
    batch = Batch.of(x)
    size = 2 * draws * min(ROWS, len(batch)) * (3 + latent) * batch.x.dtype.itemsize
    check_memory(f"draws = {draws}", size, "use fewer")


def log_mean(log_weight: Tensor) -> tuple[Tensor, Tensor]:
    """Log mean weight and relative variance of the weights over the first axis, (S, ...) → (...), (...).

    By the delta method, the relative variance V = Var(w) / mean(w)² gives the error of log mean w: its variance is
    V / S, its bias −V / (2 S), and the effective sample size is S / (1 + V). V is at most S − 1, its value if one draw
    has all the weight.
    """
    draws = len(log_weight)
    total = log_weight.double().logsumexp(0)
    effective = (2 * total - (2 * log_weight.double()).logsumexp(0)).exp()
    return total - math.log(draws), (draws / effective - 1).clamp_min(0)


def _check_guide_alone(guide: Callable[..., Any], batch: Batch, part: Draws) -> None:
    """Check that a guide of several sites gives the same density to a draw alone and among others.

    The networks of a guide of one site do not depend on draws.
    """
    if len(part.latents) < 2 or len(part.log_guide) == 1:
        return
    with random_state_kept():
        alone = log_densities(guide, batch, {name: value[:1] for name, value in part.latents.items()})
    together, single = part.log_guide[0], (alone.observed + alone.latent)[0]
    wrong = (together - single).abs() > LIKE * (1 + single.abs())
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise FlowvaeError(
            f"x[{row}]: log q(z | x) is {together[row].item():g} among {len(part.log_guide)} draws and "
            f"{single[row].item():g} alone: a layer of the guide, such as batch normalization or convolution, treats "
            "draws as data. Reshape values (draws, N, *event shape) to (draws · N, *event shape) before it, and back."
        )


def _check_finite(log_weight: Tensor, model: object, guide: object, batch: Batch, first: int) -> None:
    """Check that log-weights (S, B) have a finite mean; `first` is the index of their first data point."""
    bad = (log_weight.isnan() | log_weight.isposinf()).any(0) | log_weight.isneginf().all(0)
    if bad.any():
        column = int(bad.nonzero()[0])
        row = first + column
        values = log_weight[:, column]
        value = values[~values.isfinite()][0].item()
        cause = broken_tensor(model=model, guide=guide)
        if cause is None and isinstance(batch.x, Tensor):
            cause = extreme_value("x", batch.x, row)
        raise FlowvaeError(
            f"x[{row}]: log p(x, z) − log q(z | x) is {value:g} for draws of its code, so nothing can be measured: "
            f"{cause or 'check this data point'}. Leave such data out or train the model again."
        )
