"""Holes of a prior: regions of high prior density without codes of data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Normal

from flowvae.core.errors import FlowvaeError
from flowvae.core.memory import check_memory
from flowvae.core.seeds import derive, seeded
from flowvae.evaluation.context import EvaluationContext, MeasureResult
from flowvae.evaluation.latent.aggregated_posterior import (
    CHUNK,
    PATIENCE,
    AggregatedPosterior,
    WithPosterior,
    WithPrior,
    draw_codes,
)
from flowvae.evaluation.latent.base_space import has_base, to_base
from flowvae.evaluation.metric import Metric
from flowvae.evaluation.registry import measure
from flowvae.networks import in_eval_mode

__all__ = ["QUANTILE", "Holes", "measure_holes", "reference_codes"]

QUANTILE = 0.05  # quantile of log q̄ at codes, below which values count as holes


@dataclass(frozen=True)
class Holes:
    """Log q̄(z) in nats at draws from q̄ and at draws from the prior, shape (draws,) each.

    A density changes under a bijection, so the region where q̄ is low depends on the space. In the base space
    u = T⁻¹z, where every prior is N(0, I), the numbers of different priors are comparable.

    Args:
        codes: log q̄(z) for z ~ q̄, or for codes of held-out data.
        prior: log q̄(z) for z ~ p.
        base_codes: log-density of the same codes in the base space; None if the prior has no base space.
        base_prior: the same for the draws from the prior.
        quantile: level of the quantile of `codes` below which values count as holes.
        held_out: whether `codes` belong to held-out data.
    """

    codes: Tensor
    prior: Tensor
    base_codes: Tensor | None
    base_prior: Tensor | None
    quantile: float
    held_out: bool = False

    @property
    def threshold(self) -> float:
        """Threshold in nats: z lies in a hole if log q̄(z) is below it."""
        return self.codes.quantile(self.quantile).item()

    @property
    def mass(self) -> tuple[float, float]:
        """Share of the prior's mass in holes, with its standard error; equal to `quantile` if p = q̄."""
        return _mass(self.codes, self.prior, self.quantile)

    @property
    def base_mass(self) -> tuple[float, float] | None:
        """The same for the densities in the base space; None if the prior has no base space."""
        if self.base_codes is None or self.base_prior is None:
            return None
        return _mass(self.base_codes, self.base_prior, self.quantile)

    def metrics(self, split: str, protocol: dict[str, Any]) -> list[Metric]:
        """`hole_mass` and, if the prior has a base space, `hole_mass_base`; `held_out_…` for held-out codes."""
        protocol = {**protocol, "draws": len(self.prior), "codes": len(self.codes), "quantile": self.quantile}
        name = "held_out_hole_mass" if self.held_out else "hole_mass"
        figures = {name: self.mass, f"{name}_base": self.base_mass}
        unit = "share of the prior's mass"
        return [Metric(name, *figure, unit, split, protocol) for name, figure in figures.items() if figure]


@torch.no_grad()
@in_eval_mode
def measure_holes(
    model: WithPrior,
    guide: WithPosterior,
    x: Tensor,
    held_out: Tensor | None = None,
    draws: int = 2000,
    quantile: float = QUANTILE,
    seed: int = 0,
    progress: bool = False,
    chunk: int = CHUNK,
    patience: float = PATIENCE,
) -> Holes:
    """Estimate the prior's mass in the region where log q̄(z) is below its own 5 % quantile.

    This needs the whole q̄: that of a subset of the data is narrower and overstates the holes. Even the whole data set
    can be too small: where I_q(x; z) is near log N, q̄ consists of N components that hardly overlap, and nearly all
    mass of any prior lies between them. Codes of held-out data lie there as well, so a threshold from held-out codes
    is fairer: it asks whether draws of the prior are farther from q̄ than new codes are. If the prior equals the q̄ of
    the population, their mass below this threshold is the quantile at any N.

    Args:
        model: model with a method `prior()`.
        guide: guide with a method `posterior(x)`.
        x: the data of q̄, shape (N, D).
        held_out: data whose codes, one per data point, set the threshold, shape (M, D); None: draws of q̄.
        draws: number of draws from the prior and from q̄ each; every draw needs N densities.
        quantile: between 0 and ½.
        seed: random seed of the draws.
        progress: whether to show a progress bar.
        chunk: densities in memory at a time; the result does not depend on it.
        patience: seconds of estimated work from which a warning states the cost.

    Raises:
        FlowvaeError: for a quantile out of range, or if fewer than ten draws lie below it.

    References:
        Rezende & Viola (2018), "Taming VAEs", for holes; Bauer & Mnih (2019), "Resampled Priors".
    """
    if not 0 < quantile < 0.5:
        raise FlowvaeError(f"quantile = {quantile}: must lie between 0 and 0.5, such as 0.05.")
    for name, count in (("draws", draws), ("held-out data", draws if held_out is None else len(held_out))):
        if count * quantile < 10:
            needed = math.ceil(10 / quantile)
            raise FlowvaeError(f"{name} = {count}: the {quantile:.0%} quantile needs {needed} or more.")
    aggregated = AggregatedPosterior(guide, x, chunk, patience, progress)
    prior = model.prior()
    check_memory(f"draws = {draws}", draws * prior.event_shape.numel() * x.itemsize, "use fewer")
    with seeded(derive(seed, "prior")):
        drawn = prior.sample((draws,))
    codes = reference_codes(aggregated, held_out, draws, seed)
    count = len(codes)
    both = torch.cat((codes, drawn))
    density = aggregated.log_prob(both)
    if not has_base(prior):
        return Holes(density[:count], density[count:], None, None, quantile, held_out is not None)
    u = to_base(prior, both)
    # the map to the base space changes volumes by the factor p(z)/N(u)
    base = density - (prior.log_prob(both) - Normal(0.0, 1.0).log_prob(u).sum(-1)).double()
    return Holes(density[:count], density[count:], base[:count], base[count:], quantile, held_out is not None)


def reference_codes(aggregated: AggregatedPosterior, held_out: Tensor | None, draws: int, seed: int) -> Tensor:
    """Codes whose log q̄ sets the threshold, (n, latent): of held-out data, one per data point, or draws of q̄."""
    if held_out is None:
        return aggregated.sample(draws, derive(seed, "codes"))
    return draw_codes(aggregated.guide, held_out, 1, derive(seed, "codes"))[0][0]


def _mass(codes: Tensor, prior: Tensor, quantile: float) -> tuple[float, float]:
    """Share of `prior` below the quantile of `codes`, and its standard error from both samples.

    The error of the quantile changes the share by the slope dF_p/dF_q̄ there, which is estimated between the quantiles
    at half and at three halves of its level.
    """
    levels = torch.tensor([0.5, 1.0, 1.5], dtype=codes.dtype, device=codes.device) * quantile
    low, share, high = ((prior < edge).double().mean().item() for edge in codes.quantile(levels))
    slope = (high - low) / quantile
    counted = share * (1 - share) / len(prior)
    moved = slope**2 * quantile * (1 - quantile) / len(codes)
    return share, math.sqrt(counted + moved)


@measure("holes", held_out=True, figures=("holes",))
def _holes(context: EvaluationContext) -> MeasureResult:
    """Mass of the prior in regions of low density of the training data's aggregated posterior."""
    from flowvae.evaluation.figures.latent_plots import plot_holes

    x, train = context.rows(), context.rows("train")
    model, guide = context.model, context.guide
    result = measure_holes(model, guide, train, x, **context.options)
    metrics = result.metrics(context.split, {**context.facts(x), "train_rows": len(train)})
    if model.prior().event_shape[0] < 2:  # the figure needs two dimensions
        return MeasureResult(metrics)
    return MeasureResult(metrics, {"holes": lambda: plot_holes(model, guide, train, x, seed=context.seed)})
