"""Ways between two codes, along the base of a flow prior and straight: the least that the prior thinks of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flowvae.core.errors import FlowvaeError, check_int_value
from flowvae.core.seeds import derive
from flowvae.data import Dataset
from flowvae.evaluation.latent.aggregated_posterior import WithPosterior, WithPrior, draw_codes
from flowvae.evaluation.latent.base_space import from_base, has_base, to_base
from flowvae.evaluation.likelihood.importance_weights import ROWS
from flowvae.evaluation.metric import Metric, mean_metric
from flowvae.networks import in_eval_mode

__all__ = ["Interpolation", "different_pairs", "end_codes", "interpolate_codes", "measure_interpolation"]

STEPS = 97  # points of a way at which log p(z) is computed


@dataclass(frozen=True)
class Interpolation:
    """The lowest log p(z) in nats on the ways between N pairs of codes, shape (N,) each.

    Both ways hold their ends, so neither can be above the lesser of these: what a way lies below it is the hole that
    it goes through. Under N(0, I), or any Gaussian, the two are one way without a hole. Log p(z) depends on the units
    of the latent, and a difference of two of them does not; differences alone compare models.

    Args:
        ends: log p of the less likely end.
        straight: lowest on z(t) straight.
        base: lowest on T(u(t)) with u(t) straight; None where the prior has no base space.
        steps: points of a way. Between them it can be lower still.
    """

    ends: Tensor
    straight: Tensor
    base: Tensor | None
    steps: int

    def metrics(self, split: str, protocol: dict[str, Any]) -> list[Metric]:
        """Means over the pairs with their standard errors.

        `path_lowest_ends`, `path_lowest_straight`, and where the prior has a base space `path_lowest_base` and
        `path_base_above_straight`, their difference: positive where the way through the base keeps to likelier codes.
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
    """The lowest log p(z) on the ways from codes of some data to codes of others.

    The standard errors are over the pairs, so no datum should be in two of them.

    Args:
        model: with `prior()`.
        guide: with `posterior(x)`.
        start: data, shape (N, D); `different_pairs` gives some.
        end: as many others.
        steps: points of a way, with both ends.
        seed: of the codes, one a datum.

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
    """Ways between codes, each of shape (steps, N, latent): "base", T(u(t)) with u(t) a straight line, and "straight".

    Both begin and end at the same codes. Under the prior N(0, I), or any Gaussian, they are the same way; under a
    flow the first bends with it. Its points are never less likely *in the base* than the lesser of the ends. A prior
    without a base space, such as a mixture, has the straight one alone.

    Args:
        model: with `prior()`.
        start: codes, shape (N, latent).
        end: as many others.
        steps: points on the way, with both ends; two or more.

    Raises:
        FlowvaeError: for fewer than two steps.
    """
    check_int_value("steps", steps, least=2)  # both ends belong to the way
    prior = model.prior()
    share = torch.linspace(0, 1, steps, dtype=start.dtype, device=start.device)[:, None, None]
    straight = {"straight": torch.lerp(start, end, share)}
    if not has_base(prior):
        return straight
    return {"base": from_base(prior, torch.lerp(to_base(prior, start), to_base(prior, end), share))} | straight


def end_codes(guide: WithPosterior, start: Tensor, end: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """A code of each datum of both sides of a pair, shape (N, latent) each, drawn independently."""
    first, last = (draw_codes(guide, x, 1, derive(seed, side))[0][0] for x, side in ((start, "start"), (end, "end")))
    return first, last


def different_pairs(data: Dataset, pairs: int, seed: int, split: str = "test") -> tuple[Tensor, Tensor]:
    """Pairs of data of a split at random, shape (n, D) each side, of different labels where there are labels.

    No datum is in two pairs. There are n ≤ `pairs` of them, at most half as many as data.

    Raises:
        FlowvaeError: if there is no pair.
    """
    x: Tensor = getattr(data, split)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(derive(seed, "pairs")))
    labels = (data.labels or {}).get(split, torch.arange(len(x)))
    first, last = order[0 : len(order) // 2 * 2 : 2], order[1::2]
    different = labels[first] != labels[last]
    if not different.any():
        raise FlowvaeError(f"{data.name}: no pair of {split} data with different labels; ways need two such data.")
    return x[first[different][:pairs]], x[last[different][:pairs]]
