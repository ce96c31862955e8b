"""The Bernoulli likelihood of binary data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pyro.distributions as dist
import torch
from torch import Size, Tensor

from flowvae.core.parts import LikelihoodSpec, Units
from flowvae.models.likelihoods.event_sum import LogitCounts
from flowvae.models.likelihoods.likelihood import Likelihood

__all__ = ["BernoulliLikelihood"]


class _Bits(LogitCounts, dist.Bernoulli):
    """Pyro's Bernoulli with the fast event log-probability of `LogitCounts`."""


class _Bernoulli(Likelihood):
    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        return _Bits(logits=parameters).to_event(len(self.shape))

    def mean(self, parameters: Tensor) -> Tensor:
        return torch.sigmoid(parameters)


@dataclass(frozen=True)
class BernoulliLikelihood(LikelihoodSpec, name="bernoulli"):
    """Binary data, 0 or 1; the decoder gives their logits."""

    discrete: ClassVar[bool] = True
    support = "0 or 1"
    largest: ClassVar[int] = 1

    def build(self, shape: Size, units: Units) -> Likelihood:
        return _Bernoulli(shape, units)

    def violations(self, x: Tensor) -> Tensor:
        return (x != 0) & (x != 1)
