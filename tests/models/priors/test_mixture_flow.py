"""Flows over a mixture of Gaussians."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import disturb
from prior_cases import SMALL, mass_and_error

from flowvae import MAF, NSF, Condition, Experiment, FlowvaeError, Glow, Mixture, RealNVP, SecondStage, load
from flowvae.core.errors import ImproperDensityWarning, SlowDirectionWarning
from flowvae.experiments.train import train
from flowvae.flows import GF, IAF, Linear, to_pyro
from flowvae.models import MixtureFlow


def test_it_starts_as_the_mixture() -> None:
    torch.manual_seed(1)
    prior = MixtureFlow(MAF(), Mixture(4)).build(3)
    z = torch.randn(6, 3)
    assert torch.allclose(prior().log_prob(z), prior.base().log_prob(z), atol=1e-6)


@pytest.mark.parametrize("flow", [RealNVP(), NSF(hidden_features=(16,))], ids=["realnvp", "nsf"])
@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_its_density_integrates_to_one_and_is_that_of_its_draws(flow: Any, covariance: str) -> None:
    prior = MixtureFlow(flow, Mixture(3, covariance)).build(2)
    disturb(prior, 0.1)
    mass, error = mass_and_error(to_pyro(prior()))
    assert mass == pytest.approx(1, abs=2e-3)
    assert error < 4.5


@pytest.mark.usefixtures("float64")
def test_a_linear_flow_of_a_gaussian_is_a_gaussian() -> None:
    prior = MixtureFlow(Linear(), Mixture(1, "full")).build(3)
    disturb(prior, 0.3)
    transform, base = prior.transform(), prior.base().base
    zero, eye = torch.zeros(3), torch.eye(3)
    jacobian = torch.stack([transform(row) - transform(zero) for row in eye], 1)
    back = jacobian.inverse()
    mean = back @ (base.loc[0] - transform(zero))
    truth = torch.distributions.MultivariateNormal(mean, back @ base.covariance_matrix[0] @ back.T)
    z = torch.randn(5, 3)
    assert torch.allclose(prior().log_prob(z), truth.log_prob(z), atol=1e-9)


def test_it_has_the_properties_of_its_flow() -> None:
    assert MixtureFlow(MAF(transforms=3)).cost(8) == MAF(transforms=3).cost(8)
    assert not MixtureFlow(GF()).proper
    with pytest.warns(ImproperDensityWarning, match="MixtureFlow"):
        Experiment(latent=2, prior=MixtureFlow(GF())).build(Experiment().data.load(0))
    with pytest.warns(SlowDirectionWarning, match="MixtureFlow"):
        Experiment(latent=16, prior=MixtureFlow(IAF())).build(Experiment().data.load(0))


def test_a_flow_of_images_takes_the_shape_of_the_code() -> None:
    experiment = Experiment(latent=(4, 2, 2), prior=MixtureFlow(Glow(levels=1, steps=1)))
    model, _ = experiment.build(experiment.data.load(0))
    assert model.prior().log_prob(torch.randn(3, 16)).shape == (3,)


def test_base_and_flow_depend_on_a_condition() -> None:
    prior = MixtureFlow().build(2, 4)
    p = prior(torch.eye(4))
    assert p.log_prob(torch.randn(4, 2)).shape == (4,)
    Experiment(prior=MixtureFlow(), condition=Condition())


@pytest.mark.parametrize(
    ("settings", "value"),
    [({"flow": Mixture()}, "Mixture"), ({"flow": 3}, "3"), ({"mixture": MAF()}, "MAF"), ({"flow": MAF}, "MAF")],
)
def test_mistakes_are_named(settings: dict[str, Any], value: str) -> None:
    with pytest.raises(FlowvaeError, match=f"MixtureFlow.*{value}"):
        MixtureFlow(**settings)


def test_it_trains_jointly_and_in_a_second_stage(tmp_path: Any) -> None:
    prior = MixtureFlow(MAF(1, (8,)), Mixture(3))
    for experiment in (
        Experiment.from_dict({**SMALL.to_dict(), "prior": "mixture-flow"}),
        Experiment.from_dict({**SMALL.to_dict(), "second_stage": SecondStage(prior, SMALL.inference)}),
    ):
        run = train(experiment, tmp_path / "run", overwrite=True, draws=5, figures=False, progress=False)
        again = load(tmp_path / "run")
        assert again.experiment == experiment
        z = torch.randn(4, 2)
        assert torch.equal(again.pair.model.prior().log_prob(z), run.pair.model.prior().log_prob(z))
