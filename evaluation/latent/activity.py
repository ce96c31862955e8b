"""Which dimensions of the code are used."""

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
from flowvae.evaluation.latent.aggregated_posterior import WithPosterior, WithPrior
from flowvae.evaluation.latent.base_space import is_diagonal
from flowvae.evaluation.likelihood.importance_weights import ROWS, check_data
from flowvae.evaluation.metric import Metric, mean_metric
from flowvae.networks import in_eval_mode

__all__ = ["Activity", "measure_activity"]

ACTIVE = 0.01  # Burda et al.'s threshold, here as a share of the prior's variance
COLLAPSED = (0.01, 0.99)  # Lucas et al. (2019), definition 1: a KL below so many nats for this share of the data
REPLICATES = 100  # of the bootstrap
PRIOR_DRAWS = 20_000  # for the variance of a prior that does not know it


@dataclass(frozen=True)
class Activity:
    """For each of the latent's dimensions ("units"), shape (latent,).

    The activity depends on the coordinates: a bijection of the latent changes it, a permutation or a scale of
    single units does not change the set of its values.

    Args:
        share: Var_x E_q[z_j] / Var_p(z_j): 0 for a unit that ignores the data. Unbiased, so a small negative
            value is a zero with its noise.
        se: its standard error, over the data and the draws from the prior.
        kl: KL(q(z_j | x_n)‖p(z_j)) in nats, shape (N, latent), where guide and prior have independent
            dimensions; None elsewhere, where a KL of single units is not defined.
        draws: codes a datum.
        active_se: standard error of `active`, by a bootstrap over the data and the variance of the prior; 0 where
            every unit is far from the threshold.
        collapsed_se: of `collapsed`, by the same bootstrap.
    """

    share: Tensor
    se: Tensor
    kl: Tensor | None
    draws: int
    active_se: float
    collapsed_se: float | None

    @property
    def active(self) -> int:
        """How many units have an activity above 0.01."""
        return int((self.share > ACTIVE).sum())

    @property
    def collapsed(self) -> int | None:
        """How many units have a KL below 0.01 nats for 99 % of the data or more; None without a KL of units.

        References:
            Lucas, Tucker, Grosse & Norouzi (2019), "Don't Blame the ELBO!", definition 1.
        """
        if self.kl is None:
            return None
        nats, share = COLLAPSED
        return int(((self.kl < nats).double().mean(0) >= share).sum())

    def metrics(self, split: str, protocol: dict[str, Any]) -> list[Metric]:
        """Active units, the activity of each, and where they are defined collapsed units and each unit's KL."""
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
    """Var_x E_q[z_j] / Var_p(z_j) for every unit.

    E_q is a mean of S draws, whose noise adds E_x Var_q(z_j)/S to the variance of the means; that is estimated
    from the spread of the same draws and taken away. The prior's variance is its own where it knows it, and
    that of 20 000 draws where it does not.

    Args:
        model: with `prior()`.
        guide: with `posterior(x)`.
        x: data, shape (N, D).
        draws: S, codes a datum; two or more.
        seed: of the draws and the bootstrap.

    Raises:
        FlowvaeError: for fewer than two draws or data, or data of another shape or type.

    References:
        Burda, Grosse & Salakhutdinov (2016), "Importance Weighted Autoencoders", section 5.1.
    """
    check_data(guide, x)
    if draws < 2 or len(x) < 2:
        raise FlowvaeError(f"draws = {draws}, data = {len(x)}: activity needs 2 or more of both.")
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
    data = len(mean)
    terms = (mean - mean.mean(0)).square() * data / (data - 1) - noise
    signal = terms.mean(0)
    share = signal / variance
    return share, ((terms.var(0) / data).sqrt() / variance).hypot(share * variance_se / variance)


def _count_errors(
    mean: Tensor, noise: Tensor, variance: Tensor, variance_se: Tensor, kl: Tensor | None, seed: int
) -> tuple[float, float | None]:
    """Standard errors of the numbers of active and of collapsed units: their spread over resamples of the data."""
    data = len(mean)
    mean = mean - mean.mean(0)
    unbiased = (data / (data - 1)) ** 2  # once for the data, and once for a resample, which varies less than they do
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
