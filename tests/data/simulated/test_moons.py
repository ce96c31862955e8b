"""Two moons: their splits, and the exact density."""

from __future__ import annotations

import math

import pytest
import torch

from flowvae.core.errors import FlowvaeError
from flowvae.data import Moons


def test_test_data_are_the_same_for_every_seed() -> None:
    spec = Moons(train=50, valid=20, test=20)
    assert torch.equal(spec.load(0).test, spec.load(7).test)
    assert not torch.equal(spec.load(0).train, spec.load(7).train)
    assert torch.equal(spec.load(7).train, spec.load(7).train)


def test_data_lie_around_their_own_moon() -> None:
    data = Moons(train=400, valid=20, test=20, noise=0.02).load(0)
    assert data.labels is not None
    for moon, centre in enumerate(torch.tensor([[0.0, 0.0], [1.0, 0.5]])):
        points = data.train[data.labels["train"] == moon]
        assert len(points) == 200
        assert ((points - centre).norm(dim=1) - 1).abs().max() < 0.1
        assert ((points[:, 1] - centre[1]) * (1 - 2 * moon) > -0.1).all()


@pytest.mark.parametrize("noise", [0.1, 0.3])
def test_density_integrates_to_one(noise: float) -> None:
    side = torch.linspace(-4, 5, 226, dtype=torch.float64)
    density = Moons(noise=noise).log_evidence(torch.cartesian_prod(side, side)).exp()
    total = density.sum().item() * (side[1] - side[0]).item() ** 2
    assert math.isclose(total, 1, abs_tol=1e-6)


def test_density_has_converged() -> None:
    spec = Moons(train=2, valid=2, test=50)
    x = spec.load(0).test
    torch.testing.assert_close(spec.log_evidence(x), spec.log_evidence(x, panel=0.3), rtol=0, atol=1e-6)


def test_density_is_what_simple_monte_carlo_finds() -> None:
    spec = Moons(train=2, valid=2, test=5)
    x = spec.load(0).test.double()
    generator = torch.Generator().manual_seed(1)
    t = math.pi * torch.rand(400_000, generator=generator, dtype=torch.float64)
    curves = torch.cat((torch.stack((t.cos(), t.sin()), 1), torch.stack((1 - t.cos(), 0.5 - t.sin()), 1)))
    for datum, exact in zip(x, spec.log_evidence(x), strict=True):
        weight = torch.exp(-((datum - curves) ** 2).sum(1) / (2 * spec.noise**2)) / (2 * math.pi * spec.noise**2)
        error = (weight.std() / weight.mean() / math.sqrt(len(weight))).item()
        assert abs(weight.mean().log().item() - exact.item()) < 4 * error


@pytest.mark.parametrize("setting", [{"train": 1}, {"test": 0}, {"noise": 0.0}])
def test_settings_out_of_range_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(FlowvaeError, match=next(iter(setting))):
        Moons(**setting)  # type: ignore[arg-type]
