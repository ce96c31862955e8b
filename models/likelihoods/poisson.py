"""The Poisson likelihood of unbounded counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Size, Tensor

from flowvae.core.parts import LikelihoodSpec, Units
from flowvae.models.likelihoods.event_sum import Counts, precise, precise_sum
from flowvae.models.likelihoods.likelihood import Likelihood, bounded, count_units, refuse_zeros

__all__ = ["LARGEST_COUNT", "LARGEST_LOG_RATE", "LEAST_LOG_RATE", "PoissonLikelihood"]

LARGEST_COUNT = 2**16  # float32 rounds the rate of a larger count by more than 0.004
LEAST_LOG_RATE, LARGEST_LOG_RATE = -30.0, 30.0  # in units of the mean count; beyond them a rate is not a float32 number


class _Rates(Counts, dist.Poisson):
    """Pyro's Poisson with the event log-probability of `Counts`."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the rates."""
        return self.rate.dtype

    def log_kernel(self, value: Tensor, event: int) -> Tensor:
        """Compute Σ_j (x_j log r_j − r_j)."""
        return precise_sum(precise(value).xlogy(precise(self.rate)) - self.rate, event)

    def log_base_measure(self, value: Tensor) -> Tensor:
        """Compute −log x!, in the shape of the value, in float64 where the device has it."""
        return -torch.lgamma(precise(value) + 1)


class _Poisson(Likelihood):
    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        return _Rates(self.mean(parameters)).to_event(len(self.shape))

    def mean(self, parameters: Tensor) -> Tensor:
        return self.center * bounded(parameters, LEAST_LOG_RATE, LARGEST_LOG_RATE).exp()


@dataclass(frozen=True)
class PoissonLikelihood(LikelihoodSpec, name="poisson"):
    """Counts 0, 1, 2, … of rate m eʰ, where h is the decoder's output and m the mean count of the training data.

    Networks see log(1 + x), standardized.
    """

    discrete: ClassVar[bool] = True
    logarithmic: ClassVar[bool] = True
    support = f"whole numbers from 0 to {LARGEST_COUNT}"

    def units(self, train: Any) -> Units:
        """Compute mean and standard deviation of all values.

        Raises:
            FlowvaeError: for data whose dtype is not torch's default, or counts that are all 0.
        """
        units = count_units(train)
        refuse_zeros(units.center)
        return units

    def build(self, shape: Size, units: Units) -> Likelihood:
        return _Poisson(shape, units)

    def violations(self, x: Tensor) -> Tensor:
        return (x < 0) | (x > LARGEST_COUNT) | (x != x.round())
