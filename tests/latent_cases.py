"""Pairs whose latent space is known exactly."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal, Transform
from zuko.distributions import DiagNormal, NormalizingFlow

from flowvae.flows.pyro_adapter import to_pyro
from flowvae.models import LinearGaussian


@dataclass
class Prior:
    """A model of which only the prior matters."""

    distribution: Distribution

    def prior(self) -> Distribution:
        return self.distribution


def standard(latent: int) -> Prior:
    return Prior(DiagNormal(torch.zeros(latent), torch.ones(latent)))


@dataclass
class Shifted:
    """q(z | x) = N(x + shift, scale²): the datum is the code, up to noise."""

    scale: float
    shift: float = 0.0

    def posterior(self, x: Tensor) -> Distribution:
        return Independent(Normal(x + self.shift, torch.full_like(x, self.scale)), 1)


@dataclass
class Warped:
    """A guide whose codes are sent through a bijection."""

    guide: object
    transform: Transform

    def posterior(self, x: Tensor) -> Distribution:
        return to_pyro(NormalizingFlow(self.transform.inv, self.guide.posterior(x)))  # type: ignore[attr-defined]


@dataclass
class Exact:
    """The posterior of probabilistic PCA whose columns are orthogonal, so that its dimensions are independent."""

    model: LinearGaussian

    def posterior(self, x: Tensor) -> Distribution:
        return self.model.mean_field(x)


def ppca(size: int, seed: int, columns: tuple[float, ...] = (1.6, 0.6)) -> tuple[LinearGaussian, Exact, Tensor]:
    """Probabilistic PCA with orthogonal columns of these lengths and σ = 0.8, its exact posterior, and data from it."""
    weight, _ = torch.linalg.qr(torch.randn(5, len(columns), generator=torch.Generator().manual_seed(0)))
    model = LinearGaussian(weight * torch.tensor(columns), torch.zeros(5), scale=0.8)
    torch.manual_seed(seed)
    with torch.no_grad():
        return model, Exact(model), model(None, size)


def share_covered(intervals: list[tuple[float, float]], truth: float) -> int:
    """How many of the intervals value ± 1.96 se hold the truth."""
    return sum(abs(value - truth) < 1.96 * se for value, se in intervals)
