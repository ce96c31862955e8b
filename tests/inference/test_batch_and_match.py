"""Gaussian approximations by scores, with more latents than draws and with one scale each."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from flowvae.inference.batch_and_match import batch_and_match, match_curvature


def correlated(size: int) -> torch.distributions.MultivariateNormal:
    """A Gaussian whose scales differ by a factor of a hundred, with a strong common factor."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.logspace(-1, 1, size, dtype=torch.float64)
    factor = torch.randn(size, 2, generator=generator, dtype=torch.float64)
    covariance = scale[:, None] * (torch.eye(size, dtype=torch.float64) + factor @ factor.T) * scale
    return torch.distributions.MultivariateNormal(torch.linspace(-2, 2, size).double(), covariance)


def test_a_gaussian_with_more_dimensions_than_draws_is_found() -> None:
    torch.manual_seed(0)
    target = correlated(100)
    loc, tril = batch_and_match(target.log_prob, torch.zeros(100), torch.eye(100))
    found = torch.distributions.MultivariateNormal(loc, scale_tril=tril)
    start = torch.distributions.MultivariateNormal(torch.zeros(100).double(), torch.eye(100).double())
    assert torch.distributions.kl_divergence(found, target) < 1e-3 * torch.distributions.kl_divergence(start, target)


def test_curvature_gives_the_scales_of_the_largest_elbo() -> None:
    torch.manual_seed(0)
    target = correlated(40)
    found = match_curvature(target.log_prob, target.loc, torch.full((40,), 0.1), 200)
    expected = target.precision_matrix.diagonal().rsqrt()
    torch.testing.assert_close(found / expected, torch.ones(40).double(), rtol=0.15, atol=0)
    assert (found < 0.9 * target.stddev).any()  # not the marginal ones


def test_curvature_shrinks_into_the_support() -> None:
    def half(z: Tensor) -> Tensor:
        inside = (z[:, 0] - 1).sqrt()
        return torch.distributions.Normal(3.0, 0.5).log_prob(z).sum(-1) + 0 * inside

    torch.manual_seed(0)
    found = match_curvature(half, torch.full((2,), 3.0), torch.full((2,), 50.0))
    assert found.tolist() == pytest.approx([0.5, 0.5], rel=0.1)
