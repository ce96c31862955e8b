"""Priors of your own: a zuko flow, a Pyro distribution, a module. Each is a lazy distribution: a call gives p(z)."""

from dataclasses import dataclass

import pyro.distributions as dist
import torch
import zuko
from torch import Tensor, nn
from zuko.lazy import LazyDistribution

from flowvae import Experiment, PriorSpec


@dataclass(frozen=True)
class ZukoFlow(PriorSpec, name="zuko-nsf"):
    """Any flow of zuko's, as it comes."""

    bins: int = 8

    def build(self, features: int, context: int = 0) -> LazyDistribution:
        return zuko.flows.NSF(features, context, bins=self.bins, hidden_features=(32, 32))


@dataclass(frozen=True)
class StudentT(PriorSpec, name="student-t"):
    """Independent Student-t variables with a learned scale: a Pyro distribution, and a module that holds the scale."""

    degrees: float = 5.0

    def build(self, features: int, context: int = 0) -> LazyDistribution:
        return _StudentT(self.degrees, features)


class _StudentT(LazyDistribution):
    def __init__(self, degrees: float, features: int) -> None:
        super().__init__()
        self.degrees = degrees
        self.log_scale = nn.Parameter(torch.zeros(features))

    def forward(self, c: Tensor | None = None) -> dist.TorchDistribution:
        return dist.StudentT(self.degrees, 0.0, self.log_scale.exp()).to_event(1)


def experiment() -> Experiment:
    """Digits with the second one."""
    return Experiment(prior=StudentT())
