"""Generative topographic mapping."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from helpers import disturb
from prior_cases import SMALL, mass_and_error
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from flowvae import Experiment, FlowvaeError, SecondStage, load
from flowvae.experiments.train import train
from flowvae.models import GTM


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("features", [1, 5])
@pytest.mark.parametrize("dimensions", [1, 2])
def test_it_is_the_mixture_written_by_hand(features: int, dimensions: int) -> None:
    prior = GTM(dimensions, points=3, basis=2).build(features)
    disturb(prior, 0.3)
    side = torch.tensor([-1.0, 0.0, 1.0])
    grid = side[:, None] if dimensions == 1 else torch.cartesian_prod(side, side)
    corners = torch.tensor([-1.0, 1.0])
    corners = corners[:, None] if dimensions == 1 else torch.cartesian_prod(corners, corners)
    phi = torch.exp(-((grid[:, None] - corners) ** 2).sum(-1) / (2 * 2.0**2))
    centres = torch.cat((phi, torch.ones(len(grid), 1)), 1) @ prior.weight
    truth = MixtureSameFamily(
        Categorical(logits=torch.zeros(len(grid))), Independent(Normal(centres, prior.log_scale.exp()), 1)
    )
    z = torch.randn(2, 6, features)
    assert torch.allclose(prior().log_prob(z), truth.log_prob(z), atol=1e-10)


@pytest.mark.parametrize("dimensions", [1, 2])
def test_one_point_is_a_standard_normal_at_the_start(dimensions: int) -> None:
    z = torch.randn(5, 3)
    truth = Normal(0.0, 1.0).log_prob(z).sum(-1)
    assert torch.allclose(GTM(dimensions, points=1).build(3)().log_prob(z), truth, atol=1e-5)


def test_one_point_is_a_gaussian_that_can_move() -> None:
    prior = GTM(points=1, basis=1).build(2)
    with torch.no_grad():
        prior.weight[-1] = torch.tensor([1.0, -2.0])
        prior.log_scale.fill_(math.log(0.5))
    z = torch.randn(5, 2)
    truth = Normal(torch.tensor([1.0, -2.0]), 0.5).log_prob(z).sum(-1)
    assert torch.allclose(prior().log_prob(z), truth, atol=1e-5)


def test_it_starts_with_the_moments_of_a_standard_normal() -> None:
    draws = GTM(points=20).build(4)().sample(torch.Size((40_000,)))
    assert torch.allclose(draws.mean(0), torch.zeros(4), atol=0.05)
    assert torch.allclose(draws.std(0), torch.ones(4), atol=0.05)


@pytest.mark.parametrize("dimensions", [1, 2])
def test_its_density_integrates_to_one_and_is_that_of_its_draws(dimensions: int) -> None:
    prior = GTM(dimensions, points=5, basis=3).build(2)
    disturb(prior, 0.3)
    mass, error = mass_and_error(prior())
    assert mass == pytest.approx(1, abs=1e-3)
    assert error < 4.5


@pytest.mark.parametrize(
    ("settings", "value"), [({"dimensions": 3}, "3"), ({"points": 0}, "0"), ({"basis": 2000}, "2000")]
)
def test_mistakes_are_named(settings: dict[str, Any], value: str) -> None:
    with pytest.raises(FlowvaeError, match=f"GTM.*{value}"):
        GTM(**settings)


def test_it_trains_jointly_and_in_a_second_stage(tmp_path: Any) -> None:
    prior = GTM(points=4, basis=2)
    for parts in ({"prior": prior}, {"second_stage": SecondStage(prior, SMALL.inference)}):
        experiment = Experiment.from_dict({**SMALL.to_dict(), **parts})
        run = train(experiment, tmp_path / "run", overwrite=True, draws=5, figures=False, progress=False)
        again = load(tmp_path / "run")
        assert again.experiment == experiment
        z = torch.randn(4, 2)
        assert torch.equal(again.pair.model.prior().log_prob(z), run.pair.model.prior().log_prob(z))
