"""The binomial likelihood of counts with one total, such as grey levels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from torch import Size, Tensor

from flowvae.core.parts import Units
from flowvae.models.likelihoods.bounded_counts import BoundedCounts
from flowvae.models.likelihoods.event_sum import LogitCounts
from flowvae.models.likelihoods.likelihood import Likelihood

__all__ = ["BinomialLikelihood", "FixedTotalBinomial", "log_coefficients"]


def log_coefficients(total: int) -> Tensor:
    """Compute log C(total, k) for k = 0 to total, shape (total + 1,), rounded once from float64."""
    k = torch.arange(total + 1, dtype=torch.float64)
    n = torch.tensor(float(total), dtype=torch.float64)
    return torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)


class FixedTotalBinomial(LogitCounts, dist.Binomial):
    """Pyro's binomial with a table of log C(n, k).

    The coefficient depends on the counts alone. Pyro computes it by three log-gammas for every draw of a code, which
    took a third of the time of a test likelihood.

    Args:
        coefficients: `log_coefficients` of the total, shape (total + 1,).
        logits: of any shape.
    """

    coefficients: Tensor

    @classmethod
    def of(cls, coefficients: Tensor, logits: Tensor) -> FixedTotalBinomial:
        """Make the distribution of counts from 0 to len(coefficients) − 1."""
        new = cls(len(coefficients) - 1, logits=logits)
        new.coefficients = coefficients
        new.trials = len(coefficients) - 1
        return new

    def expand(self, batch_shape: Size, _instance: dist.Distribution | None = None) -> FixedTotalBinomial:
        """Expand the batch shape."""
        new: FixedTotalBinomial = super().expand(batch_shape, _instance)
        new.coefficients = self.coefficients
        new.trials = self.trials
        return new

    def log_base_measure(self, value: Tensor) -> Tensor:
        """Compute log C(n, k), in the shape of the value."""
        return self.coefficients[value.long()]


class _Binomial(Likelihood):
    coefficients: Tensor

    def __init__(self, shape: Size, units: Units, total: int) -> None:
        super().__init__(shape, units)
        coefficients = log_coefficients(total).to(torch.get_default_dtype())
        self.register_buffer("coefficients", coefficients, persistent=False)

    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        return FixedTotalBinomial.of(self.coefficients, parameters).to_event(len(self.shape))

    def mean(self, parameters: Tensor) -> Tensor:
        return (len(self.coefficients) - 1) * torch.sigmoid(parameters)


@dataclass(frozen=True)
class BinomialLikelihood(BoundedCounts, name="binomial"):
    """Counts from 0 to `total`, such as grey levels; the decoder gives the logits.

    Args:
        total: the largest count, 65,536 at most.

    Raises:
        FlowvaeError: for any other total.
    """

    total: int

    def __post_init__(self) -> None:
        self.check_total()

    def units(self, train: Any) -> Units:
        return Units(super().units(train).center, torch.tensor(float(self.total)))

    def build(self, shape: Size, units: Units) -> Likelihood:
        return _Binomial(shape, units, self.total)
