"""ELBO surgery: the mean KL of a guide as mutual information plus marginal KL."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flowvae.evaluation.context import EvaluationContext, MeasureResult
from flowvae.evaluation.latent.aggregated_posterior import CHUNK, PATIENCE, WithPosterior, WithPrior, code_densities
from flowvae.evaluation.metric import Metric, mean_metric
from flowvae.evaluation.registry import measure

__all__ = ["Surgery", "measure_surgery"]


@dataclass(frozen=True)
class Surgery:
    """Log-densities in nats of S codes for each of N data points, shape (S, N), float64.

    Standard errors are over the data. They hold for the population of the data although all data enter q̄: the
    derivative of E_q̄[log q̄] with respect to the weight of a data point is E_q(z|x_n)[log q̄(z)] plus a constant, so to
    first order each data point contributes its own term alone. Where KL(q̄‖p) is 0, this first-order term vanishes and
    the standard error only gives the order of magnitude of the remainder.

    Args:
        log_own: log q(z | x_n).
        log_others: log q̄(z) without x_n, the mixture of all other posteriors.
        log_prior: log p(z).
    """

    log_own: Tensor
    log_others: Tensor
    log_prior: Tensor

    @property
    def log_aggregated(self) -> Tensor:
        """Log q̄(z) with x_n, shape (S, N); computed from `log_own`, so that I ≤ log N holds exactly."""
        data = self.log_own.shape[1]
        return torch.logaddexp(self.log_others + math.log(data - 1), self.log_own) - math.log(data)

    @property
    def information(self) -> Tensor:
        """E_q[log q(z | x_n) − log q̄(z)], shape (N,). Its mean is I_q(x; z) of these N data points, at most log N."""
        return (self.log_own - self.log_aggregated).mean(0)

    @property
    def marginal_kl(self) -> Tensor:
        """E_q[log q̄(z) − log p(z)], shape (N,). Its mean is KL(q̄‖p)."""
        return (self.log_aggregated - self.log_prior).mean(0)

    @property
    def kl(self) -> Tensor:
        """KL(q(z | x_n)‖p), shape (N,): information + marginal_kl."""
        return (self.log_own - self.log_prior).mean(0)

    @property
    def subsampling_bias(self) -> float:
        """Bias in nats, to first order, by which N data points understate I and overstate KL(q̄‖p) of the population.

        Let χ² = E_n E_q[q(z | x_n)/q̄(z)] − 1. The posterior of x_n in q̄ raises log q̄ at the codes of x_n by χ²/N, and
        the noise of the other N − 1 posteriors lowers it by half of that. Without x_n only the second effect remains,
        so the bias is half of the difference between log q̄ with and without x_n. Where it is large, I is close to its
        limit log N, and the data are too few to estimate that of the population.
        """
        return ((self.log_aggregated - self.log_others).mean() / 2).item()

    def metrics(self, split: str, protocol: dict[str, Any]) -> list[Metric]:
        """I, KL(q̄‖p), their sum, the bias of the subsample and the upper limit log N, in nats."""
        draws, data = self.log_own.shape
        protocol = {**protocol, "draws": draws, "data_in_aggregate": data}
        values = {"mutual_information": self.information, "marginal_kl": self.marginal_kl, "mean_kl": self.kl}
        metrics = [mean_metric(name, value, "nats per datum", split, protocol) for name, value in values.items()]
        for name, figure in (("subsampling_bias", self.subsampling_bias), ("log_data", math.log(data))):
            metrics.append(Metric(name, figure, None, "nats per datum", split, protocol))
        return metrics


@torch.no_grad()
def measure_surgery(
    model: WithPrior,
    guide: WithPosterior,
    x: Tensor,
    draws: int = 1,
    seed: int = 0,
    progress: bool = False,
    chunk: int = CHUNK,
    patience: float = PATIENCE,
) -> Surgery:
    """Decompose the mean KL as E_n KL(q(z | x_n)‖p) = I_q(x; z) + KL(q̄‖p), over all S N² densities.

    Args:
        model: model with a method `prior()`.
        guide: guide with a method `posterior(x)`.
        x: the data of q̄, shape (N, D).
        draws: S, codes per data point.
        seed: random seed of the codes.
        progress: whether to show a progress bar.
        chunk: densities in memory at a time; the result does not depend on it.
        patience: seconds of estimated work from which a warning states the cost.

    Raises:
        FlowvaeError: for fewer than two data points or one draw.

    References:
        Hoffman & Johnson (2016), "ELBO surgery: yet another way to carve up the variational evidence lower bound".
    """
    log_own, log_others, prior_density = code_densities(model, guide, x, draws, seed, progress, chunk, patience)
    return Surgery(log_own, log_others, prior_density)


@measure("surgery")
def _surgery(context: EvaluationContext) -> MeasureResult:
    """Mutual information and marginal KL(q̄‖p) of the training codes."""
    x = context.rows("train")
    return MeasureResult(
        measure_surgery(context.model, context.guide, x, **context.options).metrics("train", context.facts(x))
    )
