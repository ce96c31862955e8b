"""Custom priors: a zuko flow and a Pyro distribution. `build` returns a lazy distribution, whose call gives p(z)."""

from dataclasses import dataclass

import pyro.distributions as dist
import torch
import zuko
from torch import Tensor, nn
from zuko.lazy import LazyDistribution

from flowvae import Experiment, PriorSpec


@dataclass(frozen=True)
class ZukoFlow(PriorSpec, name="zuko-nsf"):
    """A flow of zuko, used directly."""

    bins: int = 8

    def build(self, features: int, context: int = 0) -> LazyDistribution:
        return zuko.flows.NSF(features, context, bins=self.bins, hidden_features=(32, 32))


@dataclass(frozen=True)
class StudentT(PriorSpec, name="student-t"):
    """Independent Student-t variables with learned scales: a Pyro distribution, made by a module with the scales."""

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
    """Digits with the second prior."""
    return Experiment(prior=StudentT())
