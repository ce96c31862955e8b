"""Gaussian guides: independent dimensions, or a full covariance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from zuko.lazy import LazyDistribution

from flowvae.core.parts import GuideSpec

__all__ = ["BASES", "FullRank", "Gaussian"]


LARGEST = 20.0  # bound of |log σ|, far from usual values: beyond it, outlying data points would overflow


class _GaussianHead(LazyDistribution):
    def __init__(self, features: int, context: int) -> None:
        super().__init__()
        self.loc = nn.Linear(context, features)
        self.log_scale = nn.Linear(context, features)

    def forward(self, c: Tensor | None = None) -> dist.TorchDistribution:
        return dist.Normal(self.loc(c), self.scale(c)).to_event(1)

    def scale(self, c: Tensor | None) -> Tensor:
        """Compute σ, bounded to [e⁻²⁰, e²⁰]."""
        return self.log_scale(c).clamp(-LARGEST, LARGEST).exp()


class _FullRankHead(_GaussianHead):
    def __init__(self, features: int, context: int) -> None:
        super().__init__(features, context)
        self.lower = nn.Linear(context, features * (features - 1) // 2)
        nn.init.zeros_(self.lower.weight)
        nn.init.zeros_(self.lower.bias)
        self.register_buffer("index", torch.tril_indices(features, features, offset=-1))

    def forward(self, c: Tensor | None = None) -> dist.TorchDistribution:
        scale = self.scale(c)
        row, column = self.index
        tril = torch.diag_embed(scale)
        # relative to the row's scale, so that optimizer steps are comparable at every scale
        tril[..., row, column] = self.lower(c) * scale[..., row]
        return dist.MultivariateNormal(self.loc(c), scale_tril=tril)


@dataclass(frozen=True)
class Gaussian(GuideSpec, name="gaussian"):
    """Gaussian guide with independent dimensions, q(z | x) = N(μ(x), diag σ²(x)), as in the original VAE."""

    title: ClassVar[str] = "Gaussian with independent dimensions"
    paper: ClassVar[str] = "Kingma & Welling 2014"

    def build(self, features: int, context: int) -> LazyDistribution:
        return _GaussianHead(features, context)


@dataclass(frozen=True)
class FullRank(GuideSpec, name="full-rank"):
    """Gaussian guide with a full covariance, q(z | x) = N(μ(x), L(x) L(x)ᵀ), L lower triangular.

    It starts as `Gaussian`, with a diagonal L.
    """

    title: ClassVar[str] = "Gaussian with full covariance"
    paper: ClassVar[str] = "Rezende et al. 2014"

    def build(self, features: int, context: int) -> LazyDistribution:
        return _FullRankHead(features, context)


# Gaussian bases of other guides, by name
BASES: dict[str, type[GuideSpec]] = {"gaussian": Gaussian, "full-rank": FullRank}
