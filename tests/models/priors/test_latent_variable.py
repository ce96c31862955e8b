"""Priors with latent variables of their own: exact on a linear-Gaussian model of two levels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import Size, Tensor, nn
from zuko.lazy import LazyDistribution

from flowvae import (
    MAF,
    Condition,
    Experiment,
    FlowvaeError,
    FullRank,
    LatentVariablePrior,
    Mixture,
    SecondStage,
    SemiAmortized,
    StandardNormal,
    Training,
    load,
)
from flowvae.core.errors import ImproperDensityWarning
from flowvae.core.parts import Units
from flowvae.data import Batch
from flowvae.evaluation import measure_ais, measure_iwae, measure_likelihoods
from flowvae.flows import GF
from flowvae.flows.spec import standard_normal
from flowvae.guides import AmortizedGuide
from flowvae.models import VAE, GaussianLikelihood, StudentTLikelihood
from flowvae.models.priors.second_level import SecondLevel
from flowvae.models.priors.top_down import TopDownLevel
from flowvae.networks import MLP, Reference

pytestmark = pytest.mark.usefixtures("float64")

TOP, CODE, DATA = 2, 3, 5
S, SIGMA = 0.7, 0.4  # standard deviations of z given z2, and of x given z
SMALL = {"encoder": MLP((8,)), "decoder": MLP((8,)), "inference": Training(epochs=2, device="cpu"), "latent": 3}


class _Linear(nn.Module):
    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.matrix = nn.Parameter(matrix)

    def forward(self, z: Tensor) -> Tensor:
        return z @ self.matrix.T


class _Posterior(LazyDistribution):
    """N(gain · e, covariance): the exact posterior of a linear-Gaussian model, e being what is observed."""

    def __init__(self, matrix: Tensor, prior: Tensor, noise: Tensor) -> None:
        super().__init__()
        precision = prior.inverse() + matrix.T @ noise.inverse() @ matrix
        covariance = precision.inverse()
        self.register_buffer("gain", covariance @ matrix.T @ noise.inverse())
        self.register_buffer("tril", torch.linalg.cholesky(covariance))

    def forward(self, c: Tensor | None = None) -> dist.TorchDistribution:
        assert c is not None
        return dist.MultivariateNormal(c @ self.gain.T, scale_tril=self.tril)


def units(features: int) -> Units:
    return Units(torch.zeros(features), torch.ones(features))


def pair() -> tuple[VAE, AmortizedGuide, dist.MultivariateNormal, Tensor]:
    """Model and exact guide, the distribution of x, and the covariance of z."""
    torch.manual_seed(1)
    a, w = torch.randn(CODE, TOP), torch.randn(DATA, CODE)
    likelihood = GaussianLikelihood(scale=S).build(Size((CODE,)), units(CODE))
    upper = VAE(standard_normal(TOP), _Linear(a), likelihood)
    prior = SecondLevel(upper, nn.Identity(), _Posterior(a, torch.eye(TOP), S**2 * torch.eye(CODE)), CODE)
    model = VAE(prior, _Linear(w), GaussianLikelihood(scale=SIGMA).build(Size((DATA,)), units(DATA)))
    of_code = a @ a.T + S**2 * torch.eye(CODE)
    guide = AmortizedGuide(nn.Identity(), _Posterior(w, of_code, SIGMA**2 * torch.eye(DATA)))
    guide.prior = Reference(prior)
    of_data = dist.MultivariateNormal(torch.zeros(DATA), w @ of_code @ w.T + SIGMA**2 * torch.eye(DATA))
    return model, guide, of_data, of_code


def test_with_both_exact_conditionals_every_draw_gives_the_evidence() -> None:
    model, guide, truth, _ = pair()
    x = truth.sample((6,))
    result = measure_likelihoods(model, guide, x, draws=30)
    assert torch.allclose(result.elbo, truth.log_prob(x), atol=1e-9)
    assert torch.allclose(result.log_evidence, truth.log_prob(x), atol=1e-9)
    assert torch.allclose(result.effective_draws, torch.full((6,), 30.0), atol=1e-6)


def test_inexact_guides_bound_the_evidence_and_ais_finds_it() -> None:
    model, guide, truth, _ = pair()
    with torch.no_grad():
        model.prior.head.tril.mul_(1.4)
        guide.head.tril.mul_(1.2)
    x = truth.sample((4,))
    exact = truth.log_prob(x)
    assert (measure_likelihoods(model, guide, x, draws=2000).elbo < exact - 0.05).all()
    bound = measure_iwae(model, guide, x, samples=(1, 3000))
    assert ((bound.bound[-1] - exact).abs() < 5 * bound.standard_error[-1] + 0.02).all()
    found = measure_ais(model, guide, x)
    assert ((found.log_evidence - exact).abs() < 5 * found.standard_error + 1e-3).all()


def test_draws_have_the_covariance_of_the_marginal() -> None:
    model, _, _, covariance = pair()
    draws = model.prior().sample(Size((40_000,)))
    assert torch.allclose(draws.T.cov(), covariance, atol=0.12)
    assert model.prior().sample(Size((2, 3))).shape == (2, 3, CODE)


def ladder() -> tuple[VAE, AmortizedGuide, dist.MultivariateNormal]:
    """Model and exact top-down guide, where p(x | z) has a diagonal precision in z; and the distribution of x."""
    torch.manual_seed(2)
    a, w = torch.randn(CODE, TOP), 0.5 + torch.rand(CODE)
    upper = VAE(standard_normal(TOP), _Linear(a), GaussianLikelihood(scale=S).build(Size((CODE,)), units(CODE)))
    of_mean = S**2 * torch.eye(CODE) + torch.diag(SIGMA**2 / w**2)  # covariance of x / w given z2
    prior = TopDownLevel(upper, nn.Identity(), _Posterior(a, torch.eye(TOP), of_mean), CODE)
    likelihood = GaussianLikelihood(scale=SIGMA).build(Size((CODE,)), units(CODE))
    model = VAE(prior, _Linear(torch.diag(w)), likelihood)
    guide = AmortizedGuide(nn.Identity(), _Inverted(w))
    guide.prior = Reference(prior)
    covariance = torch.diag(w) @ (a @ a.T + S**2 * torch.eye(CODE)) @ torch.diag(w) + SIGMA**2 * torch.eye(CODE)
    return model, guide, dist.MultivariateNormal(torch.zeros(CODE), covariance)


class _Inverted(LazyDistribution):
    """p(x | z) as a Gaussian in z, for x = w z + noise."""

    def __init__(self, w: Tensor) -> None:
        super().__init__()
        self.register_buffer("w", w)

    def forward(self, c: Tensor | None = None) -> dist.TorchDistribution:
        assert c is not None
        return dist.Normal(c / self.w, (SIGMA / self.w).expand_as(c)).to_event(1)


def test_the_exact_top_down_guide_gives_the_evidence_at_every_draw() -> None:
    model, guide, truth = ladder()
    x = truth.sample((6,))
    result = measure_likelihoods(model, guide, x, draws=30)
    assert torch.allclose(result.elbo, truth.log_prob(x), atol=1e-9)
    assert torch.allclose(result.effective_draws, torch.full((6,), 30.0), atol=1e-6)
    with torch.no_grad():
        guide.head.w.mul_(1.2)
    assert (measure_likelihoods(model, guide, x, draws=2000).elbo < truth.log_prob(x) - 0.05).all()


def test_the_marginal_of_a_top_down_guide_has_the_moments_of_the_posterior() -> None:
    model, guide, truth = ladder()
    x = truth.sample((3,))
    w = model.decoder.matrix
    gain = (truth.covariance_matrix - SIGMA**2 * torch.eye(CODE)) @ w.inverse().T  # Cov(x, z)
    expected = x @ truth.covariance_matrix.inverse() @ gain
    covariance = w.inverse() @ (truth.covariance_matrix - SIGMA**2 * torch.eye(CODE)) @ w.inverse().T
    covariance = covariance - gain.T @ truth.covariance_matrix.inverse() @ gain
    q = guide.posterior(x)
    draws = q.sample(Size((20_000,)))
    assert torch.allclose(draws.mean(0), expected, atol=0.02)
    assert torch.allclose(draws[:, 0].T.cov(), covariance, atol=0.02)
    assert torch.allclose(q.mean, expected, atol=0.3)
    assert torch.equal(q.mean, q.mean)
    for ask in (lambda: q.log_prob(draws), lambda: q.variance):
        with pytest.raises(FlowvaeError):
            ask()


@pytest.mark.parametrize("top", ["bottom-up", "top-down"])
@pytest.mark.parametrize("below", ["bottom-up", "top-down"])
def test_three_levels_train_in_every_direction(below: str, top: str) -> None:
    prior = LatentVariablePrior(latent=2, prior=LatentVariablePrior(latent=2, direction=top), direction=below)
    built = Experiment(**SMALL, prior=prior).build(Experiment().data.load(0))  # type: ignore[arg-type]
    batch = Experiment().data.load(0).train[:4].double()
    trace = poutine.trace(built.guide).get_trace(batch)
    expected = {
        ("bottom-up", "bottom-up"): ["z", "z2", "z3"],
        ("bottom-up", "top-down"): ["z", "z3", "z2"],
        ("top-down", "bottom-up"): ["z2", "z3", "z"],
        ("top-down", "top-down"): ["z3", "z2", "z"],
    }
    assert [name for name in trace.stochastic_nodes if name.startswith("z")] == expected[below, top]
    loss = Trace_ELBO().differentiable_loss(built.model, built.guide, batch)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for part in built for p in part.parameters())


def test_a_top_down_guide_needs_gaussians_and_fresh_codes(tmp_path: Path) -> None:
    top_down = LatentVariablePrior(latent=2, direction="top-down")
    data = Experiment().data.load(0)
    for parts in ({"guide": FullRank()}, {"prior": replace(top_down, likelihood=StudentTLikelihood())}):
        built = Experiment(**{**SMALL, "prior": top_down, **parts}).build(data)  # type: ignore[arg-type]
        with pytest.raises(FlowvaeError, match="top-down"):
            built.guide(data.train[:4].double())
    with pytest.raises(FlowvaeError, match="top-down"):
        SecondStage(top_down)


def test_a_top_down_guide_is_trained_stored_and_encodes(tmp_path: Path) -> None:
    prior = LatentVariablePrior(latent=2, direction="top-down", decoder=MLP((8,)), encoder=MLP((8,)))
    experiment = Experiment(**SMALL, prior=prior)  # type: ignore[arg-type]
    run = experiment.run(tmp_path / "run", draws=5, figures=False, progress=False)
    again = load(tmp_path / "run")
    assert again.experiment == experiment
    x = run.data.test[:3]
    assert torch.equal(torch.as_tensor(again.encode(x)), torch.as_tensor(run.encode(x)))


def test_its_density_at_a_point_is_refused() -> None:
    model, _, _, _ = pair()
    with pytest.raises(FlowvaeError):
        model.prior().log_prob(torch.zeros(CODE))


def test_the_levels_have_names() -> None:
    three = LatentVariablePrior(latent=2, prior=LatentVariablePrior(latent=2))
    data = Experiment().data.load(0)
    built = Experiment(**SMALL, prior=three).build(data)  # type: ignore[arg-type]
    assert built.model.latent_sites == ("z3", "z2", "z")
    # the guides of the upper levels are parameters of the prior, each of them once
    names = [name for part in built for name, _ in part.named_parameters()]
    assert sum(".head." in f".{name}" for name in names) == 3 * 4  # loc and log-scale of three guide heads
    assert len({id(p) for part in built for p in part.parameters()}) == len(names)


@pytest.mark.parametrize("jointly", [True, False], ids=["jointly", "second-stage"])
def test_it_trains_and_is_loaded(tmp_path: object, jointly: bool) -> None:
    prior = LatentVariablePrior(latent=2, prior=Mixture(3), decoder=MLP((8,)), encoder=MLP((8,)))
    parts = {"prior": prior} if jointly else {"second_stage": SecondStage(prior, Training(epochs=2, device="cpu"))}
    experiment = Experiment(**SMALL, **parts)  # type: ignore[arg-type]
    run = experiment.run(f"{tmp_path}/run", draws=5, figures=False, progress=False)
    again = load(f"{tmp_path}/run")
    assert again.experiment == experiment
    assert again.pair.model.latent_sites == ("z2", "z")
    for one, other in zip(run.pair, again.pair, strict=True):
        for key, value in one.state_dict().items():
            assert torch.equal(value, other.state_dict()[key]), key
    if not jointly:
        first = load(f"{tmp_path}/run/first-stage")
        assert torch.equal(first.pair.model.decoder[0].weight, run.pair.model.decoder[0].weight)


def test_a_condition_reaches_both_levels() -> None:
    data = Experiment().data.load(0)
    prior = LatentVariablePrior(latent=2, prior=Mixture(3))
    built = replace(Experiment(**SMALL), prior=prior, condition=Condition()).build(data)  # type: ignore[arg-type]
    c = torch.eye(10)[:2]
    torch.manual_seed(0)
    one = built.model.generate(c=c[[0] * 50])[0].mean(0)
    torch.manual_seed(0)
    other = built.model.generate(c=c[[1] * 50])[0].mean(0)
    assert not torch.allclose(one, other)


def test_a_condition_that_the_prior_does_not_read_stays_outside_of_it() -> None:
    data = Experiment().data.load(0)
    small = Experiment(**SMALL, prior=LatentVariablePrior(latent=2), condition=Condition(prior=False))  # type: ignore[arg-type]
    model, guide = small.build(data)
    batch = Batch(data.train[:6].double(), torch.eye(10)[:6])
    for measured in (measure_likelihoods(model, guide, batch, draws=5), measure_likelihoods(model, guide, batch)):
        assert measured.elbo.isfinite().all()


def test_the_guide_of_a_whole_model_is_refused() -> None:
    for make in (
        lambda: LatentVariablePrior(guide=SemiAmortized()),
        lambda: Experiment(prior=LatentVariablePrior(), guide=SemiAmortized()),
    ):
        with pytest.raises(FlowvaeError) as refused:
            make()
        assert "SemiAmortized" in str(refused.value)
        assert "LatentVariablePrior" in str(refused.value)


def test_a_prior_of_the_top_that_needs_a_guide_and_data_is_refused() -> None:
    @dataclass(frozen=True)
    class Bound(StandardNormal):
        def build(self, features: int, context: int = 0) -> LazyDistribution:
            prior = super().build(features, context)
            prior.bind = lambda guide, train: None
            return prior

    with pytest.raises(FlowvaeError) as refused:
        LatentVariablePrior(prior=Bound()).build(3)
    assert "Bound" in str(refused.value)
    assert "bind" in str(refused.value)


def test_it_is_improper_where_the_prior_of_the_top_is() -> None:
    data = Experiment().data.load(0)
    assert LatentVariablePrior(prior=MAF()).proper
    with pytest.warns(ImproperDensityWarning):
        Experiment(**SMALL, prior=LatentVariablePrior(prior=LatentVariablePrior(prior=GF()))).build(data)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "value"),
    [
        ({"latent": 0}, "0"),
        ({"likelihood": "bernoulli"}, "bernoulli"),
        ({"likelihood": "continuous-bernoulli"}, "continuous-bernoulli"),
        ({"prior": 3}, "3"),
        ({"guide": 3}, "3"),
    ],
)
def test_mistakes_are_named(settings: dict[str, object], value: str) -> None:
    with pytest.raises(FlowvaeError) as refused:
        LatentVariablePrior(**settings)  # type: ignore[arg-type]
    assert value in str(refused.value)
