"""Maximum mean discrepancy between codes and draws of the prior."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flowvae.core.errors import FlowvaeError
from flowvae.core.seeds import derive, seeded
from flowvae.evaluation.context import EvaluationContext, MeasureResult
from flowvae.evaluation.latent.aggregated_posterior import WithPosterior, WithPrior, draw_codes
from flowvae.evaluation.latent.base_space import has_base, to_base
from flowvae.evaluation.metric import Metric
from flowvae.evaluation.registry import measure
from flowvae.networks import in_eval_mode

__all__ = ["MMD", "POINTS", "codes_and_prior", "measure_mmd", "mmd"]

WIDTHS = (0.5, 1.0, 2.0)  # kernel widths, in units of sqrt(latent): two draws of N(0, I) are sqrt(2 latent) apart
POINTS = 2000  # number of codes, and of draws from the prior
ROWS = 256  # rows of the kernel matrix in memory


@dataclass(frozen=True)
class MMD:
    """Unbiased estimates of squared maximum mean discrepancies; they can be negative if the distributions are close.

    Args:
        squared: MMD² for each width, shape (widths,).
        se: standard errors of `squared`, shape (widths,).
        widths: ℓ of the kernels exp(−‖u − v‖²/2ℓ²), in units of sqrt(latent).
        points: size of each of the two samples.
    """

    squared: Tensor
    se: Tensor
    widths: tuple[float, ...]
    points: int

    def metrics(self, split: str, protocol: dict[str, Any]) -> list[Metric]:
        """`mmd2_W` for each width W sqrt(latent), dimensionless."""
        protocol = {**protocol, "points": self.points}
        figures = zip(self.widths, self.squared.tolist(), self.se.tolist(), strict=True)
        return [Metric(f"mmd2_{width:g}", value, se, "MMD²", split, protocol) for width, value, se in figures]


@torch.no_grad()
@in_eval_mode
def codes_and_prior(
    model: WithPrior, guide: WithPosterior, x: Tensor, points: int = POINTS, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Draw one code per data point, and equally many draws of the prior, both (n, latent), in a common space.

    For a flow or Gaussian prior the space is the base space u = T⁻¹z, in which every such prior is N(0, I). A mixture
    has no base space; both samples are then standardized by mean and deviation of 20 000 other draws of the prior.

    Args:
        model: model with a method `prior()`.
        guide: guide with a method `posterior(x)`.
        x: data, shape (N, D).
        points: largest number of data points; larger data sets are subsampled at random.
        seed: random seed of the subset, the codes and the draws.

    Raises:
        FlowvaeError: for fewer than four points.
    """
    if min(points, len(x)) < 4:
        raise FlowvaeError(f"points = {points}, data = {len(x)}: both must be 4 or more.")
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(derive(seed, "points")))
    codes = draw_codes(guide, x[order[:points].to(x.device)], 1, seed)[0][0]
    prior = model.prior()
    with seeded(derive(seed, "prior")):
        if has_base(prior):
            return to_base(prior, codes), torch.randn_like(codes)
        drawn = prior.sample((len(codes),))
        others = prior.sample((20_000,))
    mean, deviation = others.mean(0), others.std(0)
    return (codes - mean) / deviation, (drawn - mean) / deviation


def measure_mmd(
    model: WithPrior,
    guide: WithPosterior,
    x: Tensor,
    points: int = POINTS,
    widths: Sequence[float] = WIDTHS,
    seed: int = 0,
) -> MMD:
    """Estimate MMD² between codes and prior in the base space, for kernels of fixed widths.

    MMD is not invariant under bijections of the latent space, so it is measured in the base space.

    Args:
        model: model with a method `prior()`.
        guide: guide with a method `posterior(x)`.
        x: data, shape (N, D).
        points: largest size of each sample.
        widths: widths of the kernels, in units of sqrt(latent).
        seed: random seed of the codes and draws.

    Raises:
        FlowvaeError: for fewer than four points, or a width that is not positive.

    References:
        Gretton, Borgwardt, Rasch, Schölkopf & Smola (2012), "A Kernel Two-Sample Test", lemma 6.
    """
    codes, drawn = codes_and_prior(model, guide, x, points, seed)
    if not widths or min(widths) <= 0:
        raise FlowvaeError(f"widths = {widths}: must be one or more positive numbers.")
    root = math.sqrt(codes.shape[1])
    values = [mmd(codes, drawn, width * root) for width in widths]
    squared, se = (torch.tensor(column) for column in zip(*values, strict=True))
    return MMD(squared, se, tuple(widths), len(codes))


@torch.no_grad()
def mmd(x: Tensor, y: Tensor, width: float) -> tuple[float, float]:
    """Estimate MMD² of samples (n, D) and (n, D) under exp(−‖a − b‖²/2ℓ²) by its U-statistic, with standard error.

    With h_ij = k(x_i, x_j) + k(y_i, y_j) − k(x_i, y_j) − k(x_j, y_i) it is the mean of h over i ≠ j. Its variance is
    (4(n − 2) ζ₁ + 2 ζ₂)/(n(n − 1)), ζ₁ the variance of E[h_12 | 1] and ζ₂ that of h_12 (Hoeffding 1948). If the
    distributions are equal, ζ₁ = 0 and only the second term remains. The estimate of ζ₁ is then noise around 0 and is
    clipped at 0, so that near equality the standard error is overstated by up to a half rather than understated.
    """
    n = len(x)
    x, y = x.double(), y.double()
    row_sums, squares = [], 0.0
    for start in range(0, n, ROWS):
        part = slice(start, start + ROWS)
        h = _kernel(x[part], x, width) + _kernel(y[part], y, width) - _kernel(x[part], y, width)
        h -= _kernel(y[part], x, width)
        h[torch.arange(len(h)), torch.arange(start, start + len(h))] = 0.0
        row_sums.append(h.sum(1))
        squares += h.square().sum().item()
    rows = torch.cat(row_sums)
    pairs = n * (n - 1)
    value = rows.sum().item() / pairs
    # pairs with different partners: the squared sum of a row also contains the squares of its terms
    first = max(0.0, (rows.square().sum().item() - squares) / (pairs * (n - 2)) - value**2)
    second = squares / pairs - value**2
    return value, math.sqrt((4 * (n - 2) * first + 2 * second) / pairs)


def _kernel(a: Tensor, b: Tensor, width: float) -> Tensor:
    distance = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
    return (-(distance**2) / (2 * width**2)).exp()


@measure("mmd")
def _mmd(context: EvaluationContext) -> MeasureResult:
    """Squared maximum mean discrepancy between codes and prior draws, in base space."""
    x = context.rows()
    result = measure_mmd(context.model, context.guide, x, seed=context.seed)
    return MeasureResult(result.metrics(context.split, context.facts(x)))
