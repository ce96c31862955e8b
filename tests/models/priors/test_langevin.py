"""Metropolis-adjusted Langevin chains keep their density for any step size."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from flowvae.models.priors.langevin import langevin

pytestmark = pytest.mark.usefixtures("float64")
COVARIANCE = torch.tensor([[1.0, 0.6], [0.6, 0.5]])


@pytest.mark.parametrize("step_size", [0.3, 0.6])
def test_it_reaches_a_correlated_gaussian(step_size: float) -> None:
    target = MultivariateNormal(torch.tensor([1.0, -1.0]), COVARIANCE.double())
    z = langevin(target.log_prob, torch.randn(3000, 2), 150, step_size)
    assert torch.allclose(z.mean(0), target.mean, atol=0.1)
    assert torch.allclose(z.T.cov(), target.covariance_matrix, atol=0.1)
    assert not z.requires_grad


def test_a_density_that_is_not_smooth_stays_as_it_is() -> None:
    """|z|, of variance 2: without the acceptance step, h = 1 would have another variance."""

    def log_density(z: Tensor) -> Tensor:
        return -z.abs().sum(-1)

    laplace = torch.distributions.Laplace(0.0, 1.0)
    z = langevin(log_density, laplace.sample((20_000, 1)), 30, 1.0)
    assert z.var().item() == pytest.approx(2.0, abs=0.12)


def test_moves_out_of_the_support_are_rejected() -> None:
    def log_density(z: Tensor) -> Tensor:
        inside = (z.abs() < 1).all(-1)
        return torch.where(inside, 0 * z.sum(-1), torch.full_like(z[..., 0], -torch.inf))

    z = langevin(log_density, torch.zeros(4000, 1), 100, 0.5)
    assert z.abs().max() < 1
    assert z.var().item() == pytest.approx(1 / 3, abs=0.03)
