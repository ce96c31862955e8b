"""Generative topographic mapping as a prior."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from zuko.lazy import LazyDistribution

from flowvae.core.errors import check_int
from flowvae.core.parts import PriorSpec
from flowvae.models.priors.grid import basis_functions, regular_grid
from flowvae.models.priors.mixture import WIDTH
from flowvae.models.priors.mixture_density import IsotropicMixture

__all__ = ["GTM", "MOST_POINTS"]

MOST_POINTS = 1000  # per side


@dataclass(frozen=True)
class GTM(PriorSpec, name="gtm"):
    """Generative topographic mapping: p(z) = (1/K) Σ_k N(z; W φ(u_k), σ² I).

    The u_k are a regular grid in 1 or 2 dimensions and φ are radial basis functions, so the centres lie on a smooth
    curve or surface in the space of codes. W has (P + 1) D parameters and σ one, however many points the grid has. A
    log-density costs K D operations and no network pass.

    Args:
        dimensions: number of dimensions of the grid, 1 or 2.
        points: grid points per side, K = points^dimensions.
        basis: radial basis functions per side, P = basis^dimensions.

    Raises:
        FlowvaeError: for settings out of range.

    References:
        Bishop, Svensén & Williams (1998), "GTM: The Generative Topographic Mapping".
    """

    title: ClassVar[str] = "Gaussians on a smooth curve or surface (generative topographic mapping)"
    paper: ClassVar[str] = "Bishop et al. 1998"
    conditional: ClassVar[bool] = False

    dimensions: int = 2
    points: int = 10
    basis: int = 4

    def __post_init__(self) -> None:
        check_int(self, "dimensions", most=2)
        check_int(self, "points", most=MOST_POINTS)
        check_int(self, "basis", most=MOST_POINTS)

    def build(self, features: int, context: int = 0) -> LazyDistribution:
        """Build the prior; it starts as a random smooth surface, with about the mean and variance of N(0, I)."""
        return _Topography(basis_functions(regular_grid(self.points, self.dimensions), self.basis), features)


class _Topography(LazyDistribution):
    """Equally weighted mixture of N(z; W φ(u_k), σ² I).

    Args:
        basis: φ(u_k), shape (K, P + 1), the last column 1.
        features: size of the code.
    """

    basis: Tensor

    def __init__(self, basis: Tensor, features: int) -> None:
        super().__init__()
        self.register_buffer("basis", basis)
        weight = torch.randn(basis.shape[1], features)
        several = len(basis) > 1
        centres = basis @ weight
        weight[-1] -= centres.mean(0)
        self.weight = nn.Parameter(weight * math.sqrt(1 - WIDTH**2) / centres.std(0) if several else 0 * weight)
        self.log_scale = nn.Parameter(torch.tensor(math.log(WIDTH) if several else 0.0))

    def forward(self, c: Tensor | None = None) -> IsotropicMixture:
        return IsotropicMixture(self.basis @ self.weight, self.log_scale.exp())
