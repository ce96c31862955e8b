"""Gaussian mixtures against torch's own."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers import disturb
from prior_cases import mass_and_error
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from flowvae import Experiment, FlowvaeError, Mixture
from flowvae.flows import to_pyro

COVARIANCES = ("diagonal", "full")


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("features", [1, 4])
def test_it_is_the_mixture_of_torch(covariance: str, features: int) -> None:
    prior = Mixture(3, covariance).build(features)
    disturb(prior, 0.5)
    logits, centres, log_scales, *lower = prior.phi
    tril = torch.diag_embed(log_scales.exp() + 1e-6)
    for part in lower:  # by rows
        row, column = torch.tril_indices(features, features, offset=-1)
        tril[:, row, column] = part
    truth = MixtureSameFamily(Categorical(logits=logits), MultivariateNormal(centres, scale_tril=tril))
    z = torch.randn(7, features)
    assert torch.allclose(prior().log_prob(z), truth.log_prob(z), atol=1e-10)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_its_density_integrates_to_one_and_is_that_of_its_draws(covariance: str) -> None:
    prior = Mixture(4, covariance).build(2)
    disturb(prior, 0.7)
    mass, error = mass_and_error(to_pyro(prior()))
    assert mass == pytest.approx(1, abs=1e-3)
    assert error < 4.5


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_it_starts_with_the_moments_of_a_standard_normal(covariance: str) -> None:
    draws = Mixture(200, covariance).build(3)().sample((20_000,))
    assert torch.allclose(draws.mean(0), torch.zeros(3), atol=0.2)
    assert torch.allclose(draws.T.cov(), torch.eye(3), atol=0.2)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_one_component_starts_as_the_standard_normal(covariance: str) -> None:
    z = torch.randn(5, 3)
    truth = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
    assert torch.allclose(Mixture(1, covariance).build(3)().log_prob(z), truth, atol=1e-5)


def test_a_full_covariance_starts_diagonal() -> None:
    tril = Mixture(4, "full").build(3)().base.scale_tril
    assert torch.allclose(tril, 0.7 * torch.eye(3).expand(4, 3, 3), atol=1e-5)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_it_may_depend_on_a_condition(covariance: str) -> None:
    p = Mixture(3, covariance).build(2, 4)(torch.eye(4))
    assert p.log_prob(torch.randn(4, 2)).shape == (4,)
    assert p.sample().shape == (4, 2)


def test_the_default_covariance_is_not_written() -> None:
    plain = Experiment(prior=Mixture(3)).to_dict()["prior"]
    assert plain == {"family": "mixture", "components": 3}
    full = Experiment(prior=Mixture(3, "full"))
    assert full.to_dict()["prior"]["covariance"] == "full"
    assert Experiment.from_dict(full.to_dict()) == full


def test_a_wrong_covariance_is_named() -> None:
    with pytest.raises(FlowvaeError, match=r"ful\b.*full"):
        Mixture(covariance="ful")


def test_copies_are_equal() -> None:
    prior = Mixture(3, "full").build(3)
    z = torch.randn(4, 3)
    assert torch.equal(copy.deepcopy(prior)().log_prob(z), prior().log_prob(z))
