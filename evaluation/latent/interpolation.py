"""Interpolation between two codes, and the minimum prior log-density along the path."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flowvae.core.errors import FlowvaeError, check_int_value
from flowvae.core.seeds import derive
from flowvae.data import Dataset, Source
from flowvae.evaluation.context import EvaluationContext, MeasureResult
from flowvae.evaluation.latent.aggregated_posterior import WithPosterior, WithPrior, draw_codes
from flowvae.evaluation.latent.base_space import from_base, has_base, to_base
from flowvae.evaluation.likelihood.importance_weights import ROWS
from flowvae.evaluation.metric import Metric, mean_metric
from flowvae.evaluation.registry import measure
from flowvae.networks import in_eval_mode

__all__ = ["Interpolation", "different_pairs", "end_codes", "interpolate_codes", "measure_interpolation"]

STEPS = 97  # points of a path at which log p(z) is computed


PAIRS = 500  # pairs of data points


@dataclass(frozen=True)
class Interpolation:
    """Minimum of log p(z) in nats along the paths between N pairs of codes, shape (N,) each.

    Both paths include their endpoints, so neither minimum exceeds the smaller log-density of the two endpoints. The
    difference is the depth of the hole that the path crosses. Under N(0, I), or any Gaussian, both paths are the same
    and cross no hole. Log p(z) depends on the units of the latent space but differences do not, so compare models by
    differences.

    Args:
        ends: log p(z) of the less likely endpoint.
        straight: minimum along the straight line z(t).
        base: minimum along T(u(t)) with a straight line u(t); None if the prior has no base space.
        steps: points of a path; log p(z) can be lower between them.
    """

    ends: Tensor
    straight: Tensor
    base: Tensor | None
    steps: int

    def metrics(self, split: str, protocol: dict[str, Any]) -> list[Metric]:
        """Means over the pairs with their standard errors.

        `path_lowest_ends`, `path_lowest_straight` and, if the prior has a base space, `path_lowest_base` and
        `path_base_above_straight`, the difference of the two: positive if the path through the base is more likely.
        """
        protocol = {**protocol, "pairs": len(self.ends), "draws": 1, "steps": self.steps}
        values = {"path_lowest_ends": self.ends, "path_lowest_straight": self.straight}
        if self.base is not None:
            values |= {"path_lowest_base": self.base, "path_base_above_straight": self.base - self.straight}
        return [mean_metric(name, value, "nats per pair", split, protocol) for name, value in values.items()]


@torch.no_grad()
@in_eval_mode
def measure_interpolation(
    model: WithPrior, guide: WithPosterior, start: Tensor, end: Tensor, steps: int = STEPS, seed: int = 0
) -> Interpolation:
    """Compute the minimum of log p(z) along paths between the codes of pairs of data points.

    The standard errors are over the pairs, so no data point should occur in two of them.

    Args:
        model: model with a method `prior()`.
        guide: guide with a method `posterior(x)`.
        start: data, shape (N, *shape); see `different_pairs`.
        end: as many other data points.
        steps: points of a path, including both endpoints.
        seed: random seed of the codes, one per data point.

    Raises:
        FlowvaeError: for fewer than two steps.
    """
    prior = model.prior()
    lowest: dict[str, list[Tensor]] = {}
    for first, last in zip(*(codes.split(ROWS) for codes in end_codes(guide, start, end, seed)), strict=True):
        ways = interpolate_codes(model, first, last, steps)
        for name, way in {"ends": torch.stack((first, last)), **ways}.items():
            lowest.setdefault(name, []).append(prior.log_prob(way).amin(0).double().cpu())
    found = {name: torch.cat(parts) for name, parts in lowest.items()}
    return Interpolation(found["ends"], found["straight"], found.get("base"), steps)


@torch.no_grad()
@in_eval_mode
def interpolate_codes(model: WithPrior, start: Tensor, end: Tensor, steps: int = 9) -> dict[str, Tensor]:
    """Interpolate between codes: "base" is T(u(t)) with a straight line u(t), "straight" a straight line z(t).

    Both paths have the same endpoints and the shape (steps, N, latent). Under N(0, I), or any Gaussian, they are the
    same; under a flow the path "base" is curved. The density of its points *in the base space* is never below that of
    the less likely endpoint. A prior without a base space, such as a mixture, has only the path "straight".

    Args:
        model: model with a method `prior()`.
        start: codes, shape (N, latent).
        end: as many other codes.
        steps: points of a path, including both endpoints; two or more.

    Raises:
        FlowvaeError: for fewer than two steps.
    """
    check_int_value("steps", steps, least=2)  # including both endpoints
    prior = model.prior()
    share = torch.linspace(0, 1, steps, dtype=start.dtype, device=start.device)[:, None, None]
    straight = {"straight": torch.lerp(start, end, share)}
    if not has_base(prior):
        return straight
    return {"base": from_base(prior, torch.lerp(to_base(prior, start), to_base(prior, end), share))} | straight


def end_codes(guide: WithPosterior, start: Tensor, end: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Draw one code for each data point of both sides, independently, shape (N, latent) each."""
    first, last = (draw_codes(guide, x, 1, derive(seed, side))[0][0] for x, side in ((start, "start"), (end, "end")))
    return first, last


def different_pairs(data: Dataset, pairs: int, seed: int, split: str = "test") -> tuple[Tensor, Tensor]:
    """Choose random pairs of data points of a split, with different labels if there are labels.

    No data point is in two pairs. Each side has the shape (n, *shape) with n ≤ `pairs`, at most half of the data.

    Raises:
        FlowvaeError: if there is no pair.
    """
    x: Tensor | Source = getattr(data, split)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(derive(seed, "pairs")))
    labels = (data.labels or {}).get(split, torch.arange(len(x)))
    first, last = order[0 : len(order) // 2 * 2 : 2], order[1::2]
    different = labels[first] != labels[last]
    if not different.any():
        raise FlowvaeError(f"{data.name}: no pair of {split} data with different labels; paths need two such points.")
    return x[first[different][:pairs]], x[last[different][:pairs]]


@measure("interpolation")
def _interpolation(context: EvaluationContext) -> MeasureResult:
    """Minimum of log p(z) between codes of different labels, along paths in base space and straight."""
    context.refuse_condition()
    model, guide, data, seed, split = context.model, context.guide, context.data, context.seed, context.split
    device = next(guide.parameters()).device
    start, end = (x.to(device) for x in different_pairs(data, PAIRS, seed, split))
    result = measure_interpolation(model, guide, start, end, seed=seed)
    return MeasureResult(result.metrics(split, {**context.protocol, "seed": seed}))
