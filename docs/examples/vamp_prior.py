"""VampPrior: a prior that looks at the guide. p(z) = (1/K) Σ_k q(z given u_k), with learned pseudo-inputs u_k.

Tomczak & Welling (2018), "VAE with a VampPrior".
"""

from dataclasses import dataclass
from typing import ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from zuko.lazy import LazyDistribution

from flowvae import Experiment, FlowvaeError, PriorSpec
from flowvae.networks import Reference


@dataclass(frozen=True)
class VampPrior(PriorSpec, name="vamp"):
    """Mixture of the guide's posteriors of pseudo-inputs, which start as training data."""

    conditional: ClassVar[bool] = False
    components: int = 50

    def build(self, features: int, context: int = 0) -> LazyDistribution:
        return _Vamp(self.components)


class _Vamp(LazyDistribution):
    def __init__(self, components: int) -> None:
        super().__init__()
        self.components = components

    def bind(self, guide: nn.Module, train: Tensor) -> None:
        if self.components > len(train):
            raise FlowvaeError(f"VampPrior.components = {self.components}: must be {len(train)}, the data, at most.")
        self.guide = Reference(guide)  # used here, owned elsewhere: its parameters appear once
        self.inputs = nn.Parameter(train[torch.arange(self.components)].clone())

    def forward(self, c: Tensor | None = None) -> dist.TorchDistribution:
        weights = dist.Categorical(logits=self.inputs.new_zeros(self.components))
        return dist.MixtureSameFamily(weights, self.guide().posterior(self.inputs))


def experiment() -> Experiment:
    """Digits with pseudo-inputs."""
    return Experiment(prior=VampPrior())
