"""Activity and collapse of the latent dimensions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from torch import Tensor
from torch.distributions import kl_divergence

from flowvae.core.errors import FlowvaeError
from flowvae.core.memory import check_memory
from flowvae.core.seeds import derive, seeded
from flowvae.evaluation.context import EvaluationContext, MeasureResult
from flowvae.evaluation.latent.aggregated_posterior import WithPosterior, WithPrior
from flowvae.evaluation.latent.base_space import is_diagonal
from flowvae.evaluation.likelihood.importance_weights import ROWS, check_data
from flowvae.evaluation.metric import Metric, mean_metric
from flowvae.evaluation.registry import measure
from flowvae.networks import in_eval_mode

__all__ = ["Activity", "activity_terms", "measure_activity"]

ACTIVE = 0.01  # Burda et al.'s threshold, here as a share of the prior's variance
COLLAPSED = (0.01, 0.99)  # Lucas et al. (2019), definition 1: KL below this many nats for this share of the data
REPLICATES = 100  # bootstrap replicates
PRIOR_DRAWS = 20_000  # draws for the variance of a prior without a closed form


@dataclass(frozen=True)
class Activity:
    """Activity of each latent dimension ("unit"), shape (latent,).

    The activity depends on the coordinates. A bijection of the latent space changes it; a permutation or a rescaling
    of single units leaves the set of values unchanged.

    Args:
        share: Var_x E_q[z_j] / Var_p(z_j): 0 for a unit that ignores the data. The estimate is unbiased, so
            it can be slightly negative where the activity is 0.
        se: standard error of `share`, over the data and the draws from the prior.
        kl: KL(q(z_j | x_n)‖p(z_j)) in nats, shape (N, latent), if guide and prior have independent
            dimensions; otherwise None, since the KL of a single unit is not defined.
        draws: codes per data point.
        active_se: standard error of `active`, by a bootstrap over the data and the variance of the prior; 0 if
            every unit is far from the threshold.
        collapsed_se: standard error of `collapsed`, by the same bootstrap.
    """

    share: Tensor
    se: Tensor
    kl: Tensor | None
    draws: int
    active_se: float
    collapsed_se: float | None

    @property
    def active(self) -> int:
        """Number of units with an activity above 0.01."""
        return int((self.share > ACTIVE).sum())

    @property
    def collapsed(self) -> int | None:
        """Number of units with a KL below 0.01 nats for at least 99 % of the data; None if `kl` is None.

        References:
            Lucas, Tucker, Grosse & Norouzi (2019), "Don't Blame the ELBO!", definition 1.
        """
        if self.kl is None:
            return None
        nats, share = COLLAPSED
        return int(((self.kl < nats).double().mean(0) >= share).sum())

    def metrics(self, split: str, protocol: dict[str, Any]) -> list[Metric]:
        """Active units and the activity of each; if defined, also collapsed units and the KL of each unit."""
        protocol = {**protocol, "draws": self.draws, "threshold": ACTIVE}
        unit = "share of the prior's variance"
        units = len(self.share)
        metrics = [
            Metric("active_units", self.active, self.active_se, "units", split, protocol),
            Metric(
                "inactive_share", 1 - self.active / units, self.active_se / units, "share of units", split, protocol
            ),
        ]
        for j, (share, se) in enumerate(zip(self.share.tolist(), self.se.tolist(), strict=True)):
            metrics.append(Metric(f"activity_{j}", share, se, unit, split, protocol))
        if self.kl is None or self.collapsed is None:
            return metrics
        metrics.append(Metric("collapsed_units", self.collapsed, self.collapsed_se, "units", split, protocol))
        for j, kl in enumerate(self.kl.unbind(1)):
            metrics.append(mean_metric(f"kl_{j}", kl, "nats per datum", split, protocol))
        return metrics


@torch.no_grad()
@in_eval_mode
def measure_activity(model: WithPrior, guide: WithPosterior, x: Tensor, draws: int = 100, seed: int = 0) -> Activity:
    """Estimate the activity Var_x E_q[z_j] / Var_p(z_j) of every unit.

    E_q is a mean of S draws, whose noise adds E_x Var_q(z_j)/S to the variance of the means. This term is estimated
    from the spread of the same draws and subtracted. The variance of the prior is exact if the prior provides it, and
    otherwise that of 20 000 draws.

    Args:
        model: model with a method `prior()`.
        guide: guide with a method `posterior(x)`.
        x: data, shape (N, D).
        draws: S, codes per data point; two or more.
        seed: random seed of the draws and the bootstrap.

    Raises:
        FlowvaeError: for fewer than two draws or data points, or data of another shape or type.

    References:
        Burda, Grosse & Salakhutdinov (2016), "Importance Weighted Autoencoders", section 5.1.
    """
    check_data(guide, x)
    if draws < 2 or len(x) < 2:
        raise FlowvaeError(f"draws = {draws}, data = {len(x)}: activity needs 2 or more of each.")
    prior = model.prior()
    means, noise, divergences = [], [], []
    for number, block in enumerate(x.split(ROWS)):
        with seeded(derive(seed, "codes", number)), pyro.validation_enabled(False):
            posterior = guide.posterior(block)
            check_memory(f"draws = {draws}", 8 * draws * len(block) * posterior.event_shape.numel(), "use fewer")
            codes = posterior.sample((draws,)).double()
        means.append(codes.mean(0))
        noise.append(codes.var(0) / draws)
        if is_diagonal(posterior) and is_diagonal(prior):
            divergences.append(kl_divergence(posterior.base_dist, prior.base_dist).double())
    kl = torch.cat(divergences) if divergences else None
    parts = torch.cat(means), torch.cat(noise), *_prior_variance(prior, seed)
    return Activity(*_ratio(*parts), kl, draws, *_count_errors(*parts, kl, seed))


def _ratio(mean: Tensor, noise: Tensor, variance: Tensor, variance_se: Tensor) -> tuple[Tensor, Tensor]:
    terms = activity_terms(mean, noise)
    share = terms.mean(0) / variance
    return share, ((terms.var(0) / len(terms)).sqrt() / variance).hypot(share * variance_se / variance)


def activity_terms(mean: Tensor, noise: Tensor) -> Tensor:
    """Compute terms (N, latent) whose mean is an unbiased estimate of Var_x E_q[z_j].

    Args:
        mean: mean of S codes of each data point, (N, latent), N ≥ 2.
        noise: variance of that mean, (N, latent).
    """
    data = len(mean)
    return (mean - mean.mean(0)).square() * data / (data - 1) - noise


def _count_errors(
    mean: Tensor, noise: Tensor, variance: Tensor, variance_se: Tensor, kl: Tensor | None, seed: int
) -> tuple[float, float | None]:
    """Bootstrap standard errors of the numbers of active and of collapsed units."""
    data = len(mean)
    mean = mean - mean.mean(0)
    unbiased = (data / (data - 1)) ** 2  # one factor for the data, one for the resample, whose variance is smaller
    low = None if kl is None else (kl < COLLAPSED[0]).double()
    active, collapsed = [], []
    with seeded(derive(seed, "bootstrap")):
        for _ in range(REPLICATES):
            weight = torch.bincount(torch.randint(data, (data,)), minlength=data).to(mean) / data
            threshold = ACTIVE * (variance + variance_se * torch.randn(len(variance)).to(variance))
            spread = unbiased * (weight @ mean.square() - (weight @ mean).square())
            active.append((spread - weight @ noise > threshold).double().sum())
            if low is not None:
                collapsed.append((weight @ low >= COLLAPSED[1]).double().sum())
    return torch.stack(active).std().item(), torch.stack(collapsed).std().item() if collapsed else None


def _prior_variance(prior: Any, seed: int) -> tuple[Tensor, Tensor]:
    try:
        variance = prior.variance.double()
        return variance, torch.zeros_like(variance)
    except NotImplementedError:
        with seeded(derive(seed, "prior")):
            z = prior.sample((PRIOR_DRAWS,)).double()
        squares = (z - z.mean(0)).square()
        return z.var(0), squares.std(0) / math.sqrt(PRIOR_DRAWS)


@measure("activity", figures=("activity",))
def _activity(context: EvaluationContext) -> MeasureResult:
    """Active units, relative to the variance of the prior, and collapsed units."""
    from flowvae.evaluation.figures.latent_plots import plot_activity

    x = context.rows()
    result = measure_activity(context.model, context.guide, x, seed=context.seed)
    return MeasureResult(result.metrics(context.split, context.facts(x)), {"activity": lambda: plot_activity(result)})
