"""Log-constants of unnormalized densities by importance sampling."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor

__all__ = ["TRUSTED", "LogConstant", "log_constant"]

TRUSTED = 100  # effective draws; the standard error is then 0.1 nats at most


class LogConstant(NamedTuple):
    """An estimate of log Z in nats.

    Args:
        value: the estimate.
        standard_error: of the value, in nats, by the delta method.
        effective_draws: (Σ w)² / Σ w² of the importance weights w.
        draws: number of weights.
    """

    value: float
    standard_error: float
    effective_draws: float
    draws: int

    @property
    def trusted(self) -> bool:
        """Whether there are enough effective draws (100) for a reliable standard error."""
        return self.effective_draws >= TRUSTED


def log_constant(log_weights: Tensor) -> LogConstant:
    """Estimate log Z = log E_g[w] from log-weights log w = log u(z) − log g(z) of draws z ~ g, shape (n,).

    The mean of the weights is an unbiased estimate of Z, with a relative variance of 1 / effective draws − 1 / n. Its
    logarithm underestimates log Z on average by half of this variance, at most 1 / (2 effective draws) nats. With few
    effective draws, log Z and the variance are both underestimated, because the largest weights have not been drawn.

    Args:
        log_weights: in nats, with u the unnormalized density and g the normalized proposal.

    References:
        Owen (2013), "Monte Carlo theory, methods and examples", chapter 9.
    """
    weights = log_weights.detach().cpu().double()  # not every accelerator has float64
    n = len(weights)
    total, squares = weights.logsumexp(0).item(), (2 * weights).logsumexp(0).item()
    effective = math.exp(2 * total - squares)
    return LogConstant(total - math.log(n), math.sqrt(max(0.0, 1 / effective - 1 / n)), effective, n)
