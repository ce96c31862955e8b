"""ELBO surgery: the mean KL of a guide, cut into what the code knows of the datum and what the prior misses."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flowvae.evaluation.latent.aggregated_posterior import CHUNK, PATIENCE, WithPosterior, WithPrior, code_densities
from flowvae.evaluation.metric import Metric, mean_metric

__all__ = ["Surgery", "measure_surgery"]


@dataclass(frozen=True)
class Surgery:
    """Log-densities in nats of S codes of each of N data, shape (S, N), float64.

    Standard errors are over the data. They hold for the population that the data come from, although all data
    are in q̄: the derivative of E_q̄[log q̄] by the weight of a datum is E_q(z|x_n)[log q̄(z)] and a constant, so to
    first order each datum counts with its own term alone. Where KL(q̄‖p) is 0, that term is 0 as well, and the
    stated error is only the size of what is left.

    Args:
        log_own: log q(z | x_n).
        log_others: log of the mixture of all posteriors but that of x_n.
        log_prior: log p(z).
    """

    log_own: Tensor
    log_others: Tensor
    log_prior: Tensor

    @property
    def log_aggregated(self) -> Tensor:
        """Log q̄(z), x_n included, shape (S, N): from the draw's own density, so that I ≤ log N to the last digit."""
        data = self.log_own.shape[1]
        return torch.logaddexp(self.log_others + math.log(data - 1), self.log_own) - math.log(data)

    @property
    def information(self) -> Tensor:
        """E_q[log q(z | x_n) − log q̄(z)], shape (N,). Its mean is I_q(x; z) of these N data, at most log N."""
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
        """By how much N data understate I of their population, and overstate KL(q̄‖p), in nats, to first order.

        With χ² = E_n E_q[q(z | x_n)/q̄(z)] − 1: its own posterior in q̄ raises log q̄ at the codes of x_n by χ²/N, and
        the noise of the other N − 1 lowers it by half of that. Without x_n only the second is left, so half of the
        difference between log q̄ with and without x_n is the bias. Where it is large, I has run into log N, and
        the data are too few to say what their population's is.
        """
        return ((self.log_aggregated - self.log_others).mean() / 2).item()

    def metrics(self, split: str, protocol: dict[str, Any]) -> list[Metric]:
        """I, KL(q̄‖p), their sum, the bias of the subsample and the ceiling log N, in nats."""
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
    """E_n KL(q(z | x_n)‖p) = I_q(x; z) + KL(q̄‖p), over all S N² densities.

    Args:
        model: with `prior()`.
        guide: with `posterior(x)`.
        x: data, shape (N, D); q̄ is theirs.
        draws: S, codes a datum.
        seed: of the codes.
        progress: whether to show a progress bar.
        chunk: densities in memory at a time; the result does not depend on it.
        patience: seconds of estimated work from which a warning states the cost.

    Raises:
        FlowvaeError: for fewer than two data or one draw.

    References:
        Hoffman & Johnson (2016), "ELBO surgery: yet another way to carve up the variational evidence lower bound".
    """
    log_own, log_others, prior_density = code_densities(model, guide, x, draws, seed, progress, chunk, patience)
    return Surgery(log_own, log_others, prior_density)
