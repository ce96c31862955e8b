"""Refinement of each data point, against the exact posterior of the linear-Gaussian model."""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch
from helpers import disturb
from linear_pairs import Conditional, TwoLevels
from pyro.infer import Trace_ELBO
from torch import Tensor, nn
from torch.distributions import kl_divergence

from flowvae.core.errors import FlowvaeError, SlowDirectionWarning
from flowvae.core.parts import Condition
from flowvae.core.registry import families
from flowvae.data import Batch
from flowvae.evaluation import measure_likelihoods
from flowvae.flows import IAF, CouplingNSF, Inverse, Linear, Residual, Sylvester, TarFlow
from flowvae.guides import AmortizedGuide, FlowGuide, FullRank, Gaussian, GuideSpec
from flowvae.guides.local_parameters import push, sobol_normal
from flowvae.inference import log_joint, refine
from flowvae.inference.refinement import individual
from flowvae.models import LinearGaussian

pytestmark = pytest.mark.usefixtures("float64")

# a solver's steps take seconds; the other two have tests of their own
REFINABLE = {
    name: spec
    for name, spec in ((name, family.default) for name, family in families("guide").items())
    if not any(word in name for word in ("cnf", "residual", "semi-amortized", "tarflow"))
} | {f"sylvester-{kind}": FlowGuide(Sylvester(transforms=2, kind=kind)) for kind in ("householder", "triangular")}


def oracle(rows: int = 6) -> tuple[LinearGaussian, Tensor]:
    torch.manual_seed(2)
    model = LinearGaussian(torch.randn(7, 3), torch.randn(7), scale=0.6)
    with torch.no_grad():
        return model, model(None, rows)


def amortized(spec: GuideSpec, seed: int = 0) -> AmortizedGuide:
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SlowDirectionWarning)
        return AmortizedGuide(nn.Linear(7, 5), spec.build(3, 5))


def shifted(model: LinearGaussian, shift: Tensor, spec: GuideSpec) -> AmortizedGuide:
    """The exact mean plus a shift, and the scales of the best mean field."""
    guide = AmortizedGuide(nn.Identity(), spec.build(3, 7))
    base = guide.head if isinstance(spec, Gaussian | FullRank) else guide.head.base
    with torch.no_grad():
        variance = (2 * model.log_scale).exp()
        base.loc.weight.copy_(torch.linalg.solve(model.precision(), model.weight.T / variance))
        base.loc.bias.copy_(shift - base.loc.weight @ model.center)
        base.log_scale.weight.zero_()
        base.log_scale.bias.copy_(-0.5 * model.precision().diagonal().log())
    return guide


SHIFT = torch.tensor([0.3, -0.4, 0.2], dtype=torch.float64)


def test_log_joint_is_the_sum_of_the_two_densities() -> None:
    model, x = oracle()
    z = torch.randn(4, 6, 3)
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1) + model.decode(z).log_prob(x)
    torch.testing.assert_close(log_joint(model, x, z), expected)


def test_a_refined_gaussian_is_the_best_mean_field() -> None:
    model, x = oracle()
    guide = shifted(model, SHIFT, Gaussian())
    refined = refine(model, guide, x, steps=300, draws=32)
    q, best = refined.posterior(x).base_dist, model.mean_field(x).base_dist
    torch.testing.assert_close(q.loc, best.loc, rtol=0, atol=2e-3)
    torch.testing.assert_close(q.scale, best.scale.expand(6, 3), rtol=0.01, atol=0)
    # KL(q || p(z | x)) in closed form is the gap
    exact = model.posterior(x)
    gap = kl_divergence(full(q.loc, q.scale), exact)
    torch.testing.assert_close(gap, model.mean_field_gap().expand(6), rtol=0, atol=5e-4)
    # what was gained is what the shift had cost
    cost = 0.5 * SHIFT @ model.precision() @ SHIFT
    first = guide.posterior(x).base_dist
    torch.testing.assert_close(
        kl_divergence(full(first.loc, first.scale), exact) - gap, cost.expand(6), atol=5e-4, rtol=0
    )
    torch.testing.assert_close(refined.gain, cost.expand(6), rtol=0, atol=0.05 * cost.item())


def full(loc: Tensor, scale: Tensor) -> torch.distributions.MultivariateNormal:
    return torch.distributions.MultivariateNormal(loc, scale_tril=torch.diag_embed(scale.expand_as(loc)))


def test_a_refined_full_rank_guide_is_the_posterior() -> None:
    model, x = oracle()
    refined = refine(model, shifted(model, SHIFT, FullRank()), x, steps=400, draws=32)
    gap = kl_divergence(refined.posterior(x), model.posterior(x))
    assert gap.max() < 5e-4
    # log-weights spread by √(2 KL) ≈ 0.03 nats, so the mean of 4000 is within 0.0005
    result = measure_likelihoods(model, refined, x, draws=4000, seed=1)
    torch.testing.assert_close(result.elbo, model.log_evidence(x).detach(), rtol=0, atol=2e-3)


def test_a_refined_affine_iaf_reaches_the_evidence() -> None:
    model, x = oracle(2)
    torch.manual_seed(0)
    guide = shifted(model, SHIFT, FlowGuide(IAF(transforms=1, hidden_features=(32,)), conditioned=False))
    refined = refine(model, guide, x, steps=400, draws=16)
    result = measure_likelihoods(model, refined, x, draws=4000, seed=1)
    # a network of ReLUs is nearly linear where the posterior lies
    torch.testing.assert_close(result.elbo, model.log_evidence(x).detach(), rtol=0, atol=0.01)
    assert model.mean_field_gap() > 0.1


@pytest.mark.parametrize("conditioned", [False, True], ids=["static", "conditioned"])
@pytest.mark.parametrize("name", REFINABLE)
def test_every_family_starts_at_the_amortized_guide_and_improves(name: str, conditioned: bool) -> None:
    model, x = oracle(2)
    spec = REFINABLE[name]
    if isinstance(spec, FlowGuide):
        spec = replace(spec, conditioned=conditioned)
    elif not conditioned:
        return
    guide = amortized(spec)
    disturb(guide, 0.1)
    features = guide.encoder(x)
    noise = sobol_normal(4, 3, 0, x)
    for one, other in zip(
        push(guide.head(features), noise), push(individual(guide.head, *guide.local(x))(features), noise), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    refined = refine(model, guide, x, steps=6, draws=4)
    assert (refined.gain >= 0).all()
    assert refined.gain.sum() > 0
    assert refined.posterior(x[1:]).log_prob(torch.zeros(5, 1, 3)).shape == (5, 1)


def same(one: nn.Module, other: nn.Module, x: Tensor) -> None:
    z = torch.randn(5, 1, 3)
    torch.testing.assert_close(one.posterior(x).log_prob(z), other.posterior(x).log_prob(z), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    "spec", [FullRank(), FlowGuide(IAF(1, (8,))), FlowGuide(CouplingNSF(2, (8,)))], ids=["full", "iaf", "nsf"]
)
def test_a_datum_does_not_feel_the_others(spec: GuideSpec) -> None:
    model, x = oracle()
    guide = amortized(spec)
    refined = refine(model, guide, x, steps=10)
    same(refined, refine(model, guide, x, steps=10, rows=4), x)
    order = torch.tensor([4, 1, 2])
    same(refined, refine(model, guide, x[order], steps=10), x[order])
    torch.testing.assert_close(refined.gain[order], refine(model, guide, x[order], steps=10).gain)


def test_model_and_guide_are_left_alone_and_the_seed_decides() -> None:
    model, x = oracle()
    guide = amortized(FlowGuide(IAF(1, (8,))))
    before = copy.deepcopy({**guide.state_dict(), **model.state_dict()})
    torch.manual_seed(7)
    expected = torch.randn(3)
    torch.manual_seed(7)
    one, again = refine(model, guide, x, steps=20, seed=1), refine(model, guide, x, steps=20, seed=1)
    assert torch.equal(torch.randn(3), expected)  # nobody else's random numbers are spent
    other = refine(model, guide, x, steps=20, seed=2)
    for name, value in {**guide.state_dict(), **model.state_dict()}.items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.grad is None for part in (model, guide) for parameter in part.parameters())
    for name, value in one.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert not torch.equal(one.gain, other.gain)


def test_each_datum_has_a_flow_of_its_own() -> None:
    """Two data whose posteriors lean in opposite directions: one static flow cannot serve both, two can."""

    def model(x: Tensor) -> Tensor:
        # 0 is observed of N(z_2 − x z_1, 1/9): the posterior has precision I + 9 v vᵀ with v = (−x, 1), and mean 0
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(x + (z[..., 1:] - x * z[..., :1]), 1 / 3).to_event(1), obs=x)

    x = torch.tensor([[-1.0], [1.0]])
    guide = AmortizedGuide(nn.Linear(1, 4), FlowGuide(Linear(), conditioned=False).build(2, 4))
    refined = refine(model, guide, x, steps=300, draws=32)
    q = refined.posterior(x).flow
    # the guide of each datum is affine: where the axes go says what Gaussian it is
    origin = q.transform.inv(torch.zeros(1, 2, 2))
    moved = q.transform.inv(torch.eye(2).unsqueeze(1).expand(2, 2, 2)) - origin
    matrix, base = moved.permute(1, 2, 0), q.base.base_dist
    loc = origin[0] + (matrix @ base.loc.unsqueeze(-1)).squeeze(-1)
    found = torch.distributions.MultivariateNormal(loc, (matrix * base.scale.square().unsqueeze(-2)) @ matrix.mT)
    slope = torch.cat((-x, torch.ones(2, 1)), -1)
    covariance = torch.linalg.inv(torch.eye(2) + 9 * slope.unsqueeze(-1) * slope.unsqueeze(-2))
    exact = torch.distributions.MultivariateNormal(torch.zeros(2), covariance)
    assert kl_divergence(found, exact).max() < 0.01
    # the best that both could share, at the mean of the precisions, misses each by far more
    shared = torch.distributions.MultivariateNormal(
        torch.zeros(2), torch.linalg.inv(torch.linalg.inv(covariance).mean(0))
    )
    assert kl_divergence(shared, exact).mean() > 0.5
    assert covariance[0, 0, 1] < -0.3 < 0.3 < covariance[1, 0, 1]


def test_a_datum_whose_fit_fails_keeps_what_it_had() -> None:
    model, x = oracle()
    guide = amortized(Gaussian())
    refined = refine(model, guide, x, steps=5, learning_rate=1e6)
    torch.testing.assert_close(refined.posterior(x).base_dist.loc, guide.posterior(x).base_dist.loc)
    assert torch.equal(refined.gain, torch.zeros(6))


def test_the_refined_guide_is_a_pyro_guide_for_its_data_alone() -> None:
    model, x = oracle(70)  # more than a block of `importance_draws`
    refined = refine(model, amortized(FullRank()), x, steps=60, learning_rate=0.1)
    before = measure_likelihoods(model, refined, x, draws=20, seed=3)
    part = measure_likelihoods(model, refined, x[64:], draws=20, seed=3)
    torch.testing.assert_close(refined.posterior(x[[65, 2]]).mean, refined.posterior(x).mean[[65, 2]])
    assert part.elbo.shape == (6,)
    assert (before.log_evidence > before.elbo - 1e-9).all()
    Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1).loss_and_grads(model, refined, x[:5])
    for name, parameter in refined.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad[:5].abs().sum() > 0, name
        assert parameter.grad[5:].abs().sum() == 0, name
    again = copy.deepcopy(refined)
    torch.testing.assert_close(again.posterior(x).mean, refined.posterior(x).mean)
    with pytest.raises(FlowvaeError, match=r"x\[1\].*refined on 70 other data"):
        refined.posterior(torch.stack((x[0], x[0] + 1)))
    with pytest.raises(FlowvaeError, match=r"x\[0\].*float32"):
        refined.posterior(x.float())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps = 0"),
        ({"draws": 1.5}, r"draws = 1\.5"),
        ({"rows": -1}, "rows = -1"),
        ({"learning_rate": 0.0}, r"learning_rate = 0\.0"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, float], message: str) -> None:
    model, x = oracle()
    with pytest.raises(FlowvaeError, match=message):
        refine(model, amortized(Gaussian()), x, **settings)  # type: ignore[arg-type]


def test_what_cannot_be_refined_is_refused_by_name() -> None:
    model, x = oracle()
    with pytest.raises(FlowvaeError, match="residual flow"):
        refine(model, amortized(FlowGuide(Inverse(Residual(1, (8,))))), x)
    with pytest.raises(FlowvaeError, match="tarflow"):
        refine(model, amortized(FlowGuide(Inverse(TarFlow()))), x)
    with pytest.raises(FlowvaeError, match=r"\(0, 7\)"):
        refine(model, amortized(Gaussian()), x[:0])


def test_a_refinement_given_a_condition_at_a_site_of_any_name() -> None:
    pair = Conditional()
    c = torch.eye(3)
    x = pair.model(c=c, size=3)
    guide = AmortizedGuide(nn.Identity(), FullRank().build(2, 7), Condition(encoder=False), name="h")
    refined = refine(pair.model, guide, Batch(x, c), steps=400, learning_rate=0.1, draws=32)
    result = measure_likelihoods(pair.model, refined, Batch(x, c), draws=2000)
    torch.testing.assert_close(result.elbo, pair.log_evidence(x, c), rtol=0, atol=0.05)
    assert (pair.log_evidence(x, c.roll(1, 0)) - result.elbo).abs().min() > 0.1
    with pytest.raises(FlowvaeError, match=r"x\[0\].*3 other"):
        refined.posterior(x, c.roll(1, 0))


def test_data_of_any_event_shape() -> None:
    torch.manual_seed(2)
    model, x = LinearGaussian(torch.randn(6, 3), torch.zeros(6), scale=0.6), torch.randn(3, 1, 2, 3)

    def image(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(model.decode(z).mean.reshape(-1, 1, 2, 3), 0.6).to_event(3), obs=x)

    guide = AmortizedGuide(nn.Flatten(), FullRank().build(3, 6))
    refined = refine(image, guide, x, steps=250, learning_rate=0.1)
    truth = model.log_evidence(x.flatten(1)).detach()
    torch.testing.assert_close(measure_likelihoods(image, refined, x, 2000).elbo, truth, rtol=0, atol=5e-3)


def test_a_guide_without_a_head_is_refused() -> None:
    pair = TwoLevels()
    with pytest.raises(FlowvaeError, match="check"):
        refine(pair.model, pair.guide, pair.data(3))  # type: ignore[arg-type]
