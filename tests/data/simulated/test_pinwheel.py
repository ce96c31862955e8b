"""The exact evidence of the pinwheel, against Monte Carlo and a finer rule."""

from __future__ import annotations

import math

import torch

from flowvae.data import Pinwheel
from flowvae.data.simulated.pinwheel import ARMS, NOISE, OBSERVED, RADIAL, TANGENTIAL, decode, rotate


def test_pinwheel_evidence_is_what_simple_monte_carlo_finds() -> None:
    """Monte Carlo over the prior with a million draws, for a few data: slow, but it shares no quadrature."""
    spec = Pinwheel(train=10, valid=10, test=10)
    x = spec.load(0).test[:4].double()
    generator = torch.Generator().manual_seed(1)
    count = 1_000_000
    arm = torch.randint(ARMS, (count,), generator=generator)
    along, across = torch.randn(2, count, generator=generator, dtype=torch.float64)
    mean = decode(rotate(RADIAL * along, TANGENTIAL * across, arm))
    constant = -OBSERVED * math.log(NOISE * math.sqrt(2 * math.pi))
    for datum, exact in zip(x, spec.log_evidence(x), strict=True):
        log_likelihood = -0.5 * ((datum - mean) ** 2).sum(-1) / NOISE**2 + constant
        weight = (log_likelihood - log_likelihood.max()).exp()
        estimate = weight.mean().log() + log_likelihood.max()
        error = (weight.std() / weight.mean() / math.sqrt(count)).item()
        assert abs(estimate - exact).item() < 4 * error
        assert error < 0.05


def test_pinwheel_evidence_has_converged() -> None:
    spec = Pinwheel(train=10, valid=10, test=40)
    x = spec.load(0).test
    torch.testing.assert_close(spec.log_evidence(x), spec.log_evidence(x, step=0.125, reach=8.0), rtol=0, atol=1e-6)


def test_pinwheel_test_data_are_the_same_for_every_seed() -> None:
    spec = Pinwheel(train=50, valid=20, test=20)
    assert torch.equal(spec.load(0).test, spec.load(7).test)
    assert not torch.equal(spec.load(0).train, spec.load(7).train)
