"""Sampling importance resampling: the distribution for M = 2 in closed form, the target for many proposals."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from flowvae.models.priors import importance_resampling as module
from flowvae.models.priors.importance_resampling import importance_resampling


def propose(count: int) -> tuple[Tensor, Tensor]:
    """Draws of N(0, 1) with weights that make N(1, 1)."""
    z = torch.randn(count, 1, dtype=torch.float64)
    return z, z.squeeze(-1) - 0.5


def test_many_proposals_give_the_target() -> None:
    z = importance_resampling(propose, 5000, 200)
    assert z.shape == (5000, 1)
    assert z.mean().item() == pytest.approx(1.0, abs=0.06)
    assert z.var().item() == pytest.approx(1.0, abs=0.09)
    assert len(z.unique()) == len(z)  # new draws, not repetitions of a fixed set


def test_one_of_two_proposals() -> None:
    """E[z] = E[(z₁ e^{z₁} + z₂ e^{z₂}) / (e^{z₁} + e^{z₂})] = E[(z₁ − z₂) tanh((z₁ − z₂) / 2)] / 2, by quadrature."""
    grid = torch.linspace(-10, 10, 4001, dtype=torch.float64)
    density = torch.exp(-(grid**2) / 4) / (4 * torch.pi) ** 0.5  # of z₁ − z₂
    exact = torch.trapezoid(density * grid * torch.tanh(grid / 2) / 2, grid).item()
    z = importance_resampling(propose, 100_000, 2)
    assert z.mean().item() == pytest.approx(exact, abs=0.015)


def test_pools_in_parts_are_as_many_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POOL", 35)
    assert importance_resampling(propose, 8, 10).shape == (8, 1)  # three pools at a time
    assert importance_resampling(propose, 2, 100).shape == (2, 1)  # more proposals than a pool holds
