"""Grids and radial basis functions."""

from __future__ import annotations

import math

import pytest
import torch

from flowvae.models.priors.grid import basis_functions, regular_grid


def test_a_grid_is_regular() -> None:
    assert regular_grid(3, 1).tolist() == [[-1], [0], [1]]
    assert regular_grid(2, 2).tolist() == [[-1, -1], [-1, 1], [1, -1], [1, 1]]
    assert regular_grid(1, 2).tolist() == [[0, 0]]


@pytest.mark.usefixtures("float64")
def test_basis_functions_are_gaussians_as_wide_as_their_spacing() -> None:
    found = basis_functions(regular_grid(2, 1), 3)  # centres −1, 0, 1
    expected = [[1, math.exp(-0.5), math.exp(-2), 1], [math.exp(-2), math.exp(-0.5), 1, 1]]
    assert torch.allclose(found, torch.tensor(expected))
