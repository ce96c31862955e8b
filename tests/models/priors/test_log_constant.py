"""Importance sampling of a constant: unbiased, and its standard error covers."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal

from flowvae.models.priors.log_constant import log_constant


def log_weights(n: int, scale: float) -> torch.Tensor:
    """Of u(z) = 3 N(z; 0.5, 1) against draws of N(0, scale²)."""
    g = Normal(0.0, scale)
    z = g.sample((n,))
    return Normal(0.5, 1.0).log_prob(z) + math.log(3) - g.log_prob(z)


def test_the_standard_error_covers_the_true_constant() -> None:
    found = [log_constant(log_weights(2000, 1.3)) for _ in range(400)]
    errors = torch.tensor([(one.value - math.log(3)) / one.standard_error for one in found])
    assert errors.std().item() == pytest.approx(1.0, abs=0.12)
    assert (errors.abs() < 1.96).float().mean().item() == pytest.approx(0.95, abs=0.035)


def test_equal_weights_have_no_error() -> None:
    found = log_constant(torch.full((1000,), 7.0))
    assert found.value == pytest.approx(7.0, abs=1e-12)
    assert found.standard_error == pytest.approx(0.0, abs=1e-6)
    assert found.effective_draws == pytest.approx(1000)
    assert found.trusted


def test_effective_draws_are_those_of_the_second_moment() -> None:
    """N(m, 1) against N(0, 1): E[w²] = exp(m²)."""
    z = torch.randn(200_000, dtype=torch.float64)
    found = log_constant(z - 0.5)
    assert found.effective_draws / found.draws == pytest.approx(math.exp(-1), rel=0.03)


def test_a_constant_that_rests_on_few_draws_is_not_trusted() -> None:
    assert not log_constant(log_weights(20_000, 1.3)[:90]).trusted
    assert not log_constant(torch.cat((torch.zeros(10_000), torch.full((1,), 50.0)))).trusted


def test_large_weights_do_not_overflow() -> None:
    assert log_constant(torch.full((10,), 5000.0)).value == pytest.approx(5000)
