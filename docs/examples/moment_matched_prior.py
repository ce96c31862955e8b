"""A prior that depends on guide and data: the Gaussian with mean and covariance of the aggregated posterior.

p(z) = N(m, S) has the first two moments of q̄(z) = (1/K) Σ_k q(z | x_k), of K training data points x_k. It is the
Gaussian p with the smallest KL(q̄‖p). It has no parameters, and it changes with the guide in training.
"""

from dataclasses import dataclass
from typing import ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from zuko.lazy import LazyDistribution

from flowvae import Experiment, FlowvaeError, PriorSpec
from flowvae.networks import Reference, eval_mode


@dataclass(frozen=True)
class MomentMatched(PriorSpec, name="moment-matched"):
    """N(m, S) with the moments of the guide's posteriors of training data, Gaussian with independent dimensions."""

    conditional: ClassVar[bool] = False
    trainable: ClassVar[bool] = False  # it cannot be fitted in a second stage
    follows_guide: ClassVar[bool] = True
    inputs: int = 200

    def build(self, features: int, context: int = 0) -> LazyDistribution:
        return _MomentMatched(self.inputs)


class _MomentMatched(LazyDistribution):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.count = inputs

    def bind(self, guide: nn.Module, train: Tensor) -> None:
        if self.count > len(train):
            raise FlowvaeError(f"MomentMatched.inputs = {self.count}: must be {len(train)}, the data, at most.")
        self.guide = Reference(guide)  # a reference, so that the guide's parameters are not registered twice
        self.register_buffer("inputs", train[torch.arange(self.count)].clone())  # stored with the weights

    def forward(self, c: Tensor | None = None) -> dist.TorchDistribution:
        with eval_mode(self.guide()):  # these data must not change batch statistics
            posteriors = self.guide().posterior(self.inputs)
        mean, variance = posteriors.mean, posteriors.variance.mean(0) + 1e-5
        return dist.MultivariateNormal(mean.mean(0), variance.diag_embed() + mean.T.cov(correction=0))


def experiment() -> Experiment:
    """Digits with this prior."""
    return Experiment(prior=MomentMatched())
