"""A custom likelihood: a Gaussian whose mean and scale are both outputs of the decoder."""

from dataclasses import dataclass
from typing import ClassVar

import pyro.distributions as dist
import torch
from torch import Size, Tensor

from flowvae import Experiment, LikelihoodSpec, Units
from flowvae.data import Arrays
from flowvae.models import Likelihood


@dataclass(frozen=True)
class ScaledGaussian(LikelihoodSpec, name="scaled-gaussian"):
    """x ~ N(mean(h), scale(h)²), with a separate scale for every value."""

    discrete: ClassVar[bool] = False
    support: ClassVar[str] = "finite numbers"

    def parameter_shape(self, shape: Size) -> Size:
        return Size((2 * shape[0], *shape[1:]))

    def build(self, shape: Size, units: Units) -> Likelihood:
        return _ScaledGaussian(shape, units)

    def violations(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x, dtype=torch.bool)


class _ScaledGaussian(Likelihood):
    def forward(self, h: Tensor) -> dist.TorchDistribution:
        axis = -len(self.shape)  # the first one of the event
        mean, log_scale = h.chunk(2, dim=axis)
        return dist.Normal(mean, log_scale.clamp(-5, 5).exp()).to_event(len(self.shape))


def experiment(path: str = "table.npz") -> Experiment:
    """Your own table of real numbers."""
    return Experiment(latent=2, data=Arrays(path, "scaled-gaussian"))
