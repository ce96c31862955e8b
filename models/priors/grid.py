"""Regular grids of a latent square, and radial basis functions on them."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["basis_functions", "regular_grid"]


def regular_grid(points: int, dimensions: int) -> Tensor:
    """Return the points of a regular grid in [−1, 1]^L, shape (points^L, L); a single point is the origin."""
    side = torch.linspace(-1, 1, points) if points > 1 else torch.zeros(1)
    return torch.cartesian_prod(*[side] * dimensions).reshape(-1, dimensions)


def basis_functions(grid: Tensor, basis: int) -> Tensor:
    """Evaluate Gaussian radial basis functions and a constant at the points (K, L) of a grid.

    The centres are a grid with `basis` points per side, the width is its spacing.

    Returns:
        Values of shape (K, basis^L + 1); the last column is 1.
    """
    centres = regular_grid(basis, grid.shape[-1])
    width = 2 / (basis - 1) if basis > 1 else 2.0
    values = torch.exp(-0.5 * (torch.cdist(grid, centres) / width).square())
    return torch.cat((values, torch.ones(len(grid), 1)), -1)
