"""Both directions of the KL divergence: between Gaussians, and what becomes of codes without a condition."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from objective_cases import VECTORIZED, case, divergence, gradients, loss_and_gradients, seeded_noise
from scipy.optimize import minimize
from torch import Tensor, nn
from torch.distributions import Normal

from flowvae import Condition, Experiment, FlowvaeError, Mixture, RealNVP, Training
from flowvae.core.errors import SlowDirectionWarning
from flowvae.core.parts import PriorSpec
from flowvae.flows import MAF
from flowvae.flows.pyro_adapter import to_pyro
from flowvae.inference import Bidirectional, BidirectionalTraceELBO
from flowvae.models import MixtureFlow


@pytest.mark.usefixtures("float64")
def test_the_second_term_is_the_divergence_between_gaussians() -> None:
    model, guide, x = case(20_000)
    torch.manual_seed(0)
    with torch.no_grad():
        elbos = [BidirectionalTraceELBO(weight=weight, max_plate_nesting=1).loss(model, guide, x) for weight in (0, 1)]
    forward = divergence(Normal(torch.zeros(1, 2), torch.ones(1, 2)), guide.posterior())
    elbo = model.log_evidence(x[0]).item() - divergence(guide.posterior(), model.posterior(x))
    assert -elbos[0] / len(x) == pytest.approx(elbo, abs=0.05)
    assert (elbos[1] - elbos[0]) / len(x) == pytest.approx(forward, rel=0.03)
    assert forward > 1


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("draws", [1, 3])
@pytest.mark.parametrize("compile", ["none", "capture"])
def test_the_gradient_is_that_of_the_formula(draws: int, compile: str) -> None:  # noqa: A002
    model, guide, x = case(4)
    noise = seeded_noise(draws, x)
    prior = torch.randn(draws, 4, 2)  # drawn after the guide's noise
    q = Normal(guide.loc, guide.log_scale.exp())
    z = q.mean + q.stddev * noise
    kl = (q.log_prob(z) - Normal(0.0, 1.0).log_prob(z)).sum(-1)
    reconstruction = Normal(z @ model.weight.T + model.center, model.log_scale.exp()).log_prob(x).sum(-1)
    reverse = (Normal(0.0, 1.0).log_prob(prior) - q.log_prob(prior)).sum(-1)
    hand = (kl - reconstruction + 0.7 * reverse).mean(0).sum()
    expected = gradients(hand, model, guide)
    elbo = BidirectionalTraceELBO(weight=0.7, num_particles=draws, compile=compile, **VECTORIZED)
    for _ in range(3):
        loss, found = loss_and_gradients(elbo, model, guide, x)
        assert loss == pytest.approx(hand.item())
        torch.testing.assert_close(found, expected)


class _Linear(nn.Module):
    """z ~ N(prior c, spread²), x ~ N(2 z, 1); q(z | x) = N(slope x, scale²); all of one number."""

    def __init__(self, slope: float, log_scale: float, prior: float = 0.0, log_spread: float = 0.0) -> None:
        super().__init__()
        values = (slope, log_scale, prior, log_spread)
        self.slope, self.log_scale, self.prior, self.log_spread = (nn.Parameter(torch.tensor(v)) for v in values)

    def model(self, x: Tensor, c: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.prior * c, self.log_spread.exp()))
            pyro.sample("x", dist.Normal(2 * z, 1.0), obs=x)

    def guide(self, x: Tensor, c: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.slope * x, self.log_scale.exp()))

    def information(self) -> float:
        """About x, by q(z | x), in nats: ½ log(1 + slope² Var x / scale²) for Var x = 5."""
        return 0.5 * math.log(1 + 5 * self.slope.item() ** 2 / math.exp(2 * self.log_scale.item()))


def optimum(x: Tensor, c: Tensor, condition: bool, weight: float) -> _Linear:
    """The minimum of the expected loss, which is known in closed form."""

    def gaussian(distance: float, one: float, other: float) -> float:
        """KL divergence for a mean squared distance of the means and log standard deviations."""
        return 0.5 * (math.exp(2 * one - 2 * other) + distance * math.exp(-2 * other) - 1) + other - one

    def expected(values: Any) -> float:
        slope, log_scale, prior, log_spread = [*values, 0.0, 0.0][:4]
        distance = (slope * x - prior * c).square().mean().item()
        error = 0.5 * ((1 - 2 * slope) ** 2 * x.square().mean().item() + 4 * math.exp(2 * log_scale))
        there = gaussian(distance, log_scale, log_spread)
        return error + there + weight * gaussian(distance, log_spread, log_scale)

    start = [0.3, -0.5, 0.3, -0.5] if condition else [0.3, -0.5]
    return _Linear(*minimize(expected, start, method="BFGS").x)


@pytest.mark.usefixtures("float64")
def test_codes_lose_their_information_without_a_condition() -> None:
    """The optima are those of the closed form, and there the ELBO's gradient is zero up to its noise."""
    x = 5**0.5 * torch.randn(1000)
    c = x + 0.3 * torch.randn(1000)
    found = {}
    for condition, weight in ((False, 0.0), (False, 10.0), (True, 0.0), (True, 10.0)):
        pair = found[condition, weight] = optimum(x, c, condition, weight)
        elbo = BidirectionalTraceELBO(weight=weight, num_particles=20, **VECTORIZED)
        trained = [pair.slope, pair.log_scale, *([pair.prior, pair.log_spread] if condition else [])]
        draws = []
        for _ in range(20):
            loss = elbo.differentiable_loss(pair.model, pair.guide, x, c) / len(x)
            draws.append(torch.stack(torch.autograd.grad(loss, trained)))
        mean, error = torch.stack(draws).mean(0), torch.stack(draws).std(0) / 20**0.5
        assert (mean.abs() < 4 * error + 1e-5).all()
        assert (error < 0.05 * (1 + weight)).all()
    information = {how: pair.information() for how, pair in found.items()}
    assert information[False, 0.0] == pytest.approx(0.8, abs=0.05)  # of the posterior, of slope 0.4 and variance 0.2
    assert information[False, 10.0] < 0.1
    assert information[True, 10.0] > 0.75


@pytest.mark.parametrize("prior", [Mixture(2), MixtureFlow(MAF(1, (8,)), Mixture(2))])
def test_draws_without_their_whole_gradient_are_refused(prior: PriorSpec, float64: None) -> None:
    model, guide, x = case(3)
    mixture = prior.build(2)

    def with_mixture(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", to_pyro(mixture()))
            pyro.sample("x", model.decode(z), obs=x)

    with pytest.raises(FlowvaeError, match=r"'z'"):
        BidirectionalTraceELBO().loss(with_mixture, guide, x)


def test_what_has_no_cheap_second_direction_is_refused_or_warned_of(float64: None) -> None:
    model, guide, x = case(3)
    with pytest.raises(FlowvaeError, match=r"weight = -1"):
        Bidirectional(-1)

    def more(x: Tensor) -> None:
        guide(x)
        pyro.sample("w", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})

    with pytest.raises(FlowvaeError, match=r"z.*w, z"):
        BidirectionalTraceELBO().loss(model, more, x)


def test_an_experiment_warns_of_costs_and_of_a_missing_condition() -> None:
    settings = Training(epochs=1, objective=Bidirectional())
    plain = Experiment(prior=MAF(), inference=settings)
    data = plain.data.load(0)
    with pytest.warns(UserWarning, match="condition"), pytest.warns(SlowDirectionWarning, match=r"MAF.*\b18\b"):
        plain.build(data)
    Experiment(prior=RealNVP(), inference=settings, condition=Condition()).build(data)
