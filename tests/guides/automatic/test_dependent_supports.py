"""Supports that depend on other latents: against grids, changes of variables by autograd, and Pyro's own guides."""

from __future__ import annotations

import copy
import math
import pickle
import warnings
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive
from pyro.infer.autoguide import AutoDelta, AutoGuideList, AutoMultivariateNormal, AutoNormal, init_to_value
from torch import nn

from flowvae.core.errors import FlowvaeError
from flowvae.evaluation import NoisyParetoKWarning, importance_sample, run_nuts
from flowvae.flows import IAF, Linear
from flowvae.guides import AutoFlow
from flowvae.inference import GuideSettings, fit_autoguide
from flowvae.inference.batch_and_match import unconstrained_log_joint

QUICK = GuideSettings(steps=3, particles=4, units=3)


def bounded() -> None:
    """Whether `b` may be near 1.8 is decided by `a`."""
    a = pyro.sample("a", dist.Uniform(1.0, 2.0))
    pyro.sample("x", dist.Normal(a, 0.02), obs=torch.tensor(1.9))
    b = pyro.sample("b", dist.Uniform(0.0, a))
    pyro.sample("y", dist.Normal(b, 0.1), obs=torch.tensor(1.8))


def grid() -> tuple[float, float]:
    """Log evidence and the posterior mean of `b`."""
    a = torch.linspace(1, 2, 4001, dtype=torch.float64)[:, None]
    unit = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    b = a * unit  # uniform on (0, a)
    joint = dist.Normal(a, 0.02).log_prob(torch.tensor(1.9)) + dist.Normal(b, 0.1).log_prob(torch.tensor(1.8))
    weights = joint.exp()
    evidence = torch.trapezoid(weights.mean(1), dx=1 / 4000)
    return evidence.log().item(), (torch.trapezoid((weights * b).mean(1), dx=1 / 4000) / evidence).item()


def nested() -> None:
    """Bounds by a plate, by a half-line, and by another bounded variable."""
    a = pyro.sample("a", dist.LogNormal(torch.zeros(()), 0.5))
    with pyro.plate("data", 3):
        b = pyro.sample("b", dist.Uniform(-a, a))
        pyro.sample("y", dist.Normal(b, 0.5), obs=torch.tensor([0.1, 0.3, -0.2]))
    pyro.sample("c", dist.Pareto(a.unsqueeze(-1).expand(*a.shape, 2), 3.0).to_event(1))
    pyro.sample("d", dist.Normal(torch.zeros(()), 1.0))


def made(model: Any, **settings: Any) -> AutoFlow:
    guide = AutoFlow(model, IAF(1, (8,)), **settings)
    guide()
    return guide


def test_evidence_and_mean_are_those_of_the_grid() -> None:
    guide = AutoFlow(bounded, IAF(2, (16,)))
    fit_autoguide(bounded, guide, GuideSettings(steps=20, particles=16), progress=False)
    loc, scale = guide.affine_layer.loc_and_scale()
    guide.affine_layer.restart(loc, 2 * scale)  # wider than the posterior, as weights need it
    weighed = importance_sample(bounded, guide)
    assert weighed.pareto_k < 0.5
    evidence, mean = grid()
    assert (evidence, mean) == (pytest.approx(-0.821, abs=1e-3), pytest.approx(1.771, abs=1e-3))
    assert weighed.log_evidence.item() == pytest.approx(evidence, abs=3 * weighed.log_evidence_se.item() + 0.005)
    assert weighed.resample()["b"].mean().item() == pytest.approx(mean, abs=0.01)
    assert (weighed.draws["b"] <= weighed.draws["a"]).all()


def test_density_is_the_change_of_variables_with_the_bounds_of_the_draw() -> None:
    guide = made(nested, init_scale=0.7)
    trace = poutine.trace(guide).get_trace()
    latent = trace.nodes["_AutoFlow_latent"]["value"].detach()
    jacobian = torch.autograd.functional.jacobian(
        lambda z: torch.cat([value.reshape(-1) for value in guide.constrain(z[None]).values()]), latent
    )
    expected = guide.get_posterior().log_prob(latent) - torch.linalg.slogdet(jacobian)[1]
    torch.testing.assert_close(trace.log_prob_sum(), expected)


def test_the_unconstrained_joint_is_that_of_the_models_trace() -> None:
    guide = made(nested)
    latent = torch.randn(5, 7)
    found = unconstrained_log_joint(nested, guide)(latent)
    for z, value in zip(latent, found, strict=True):
        trace = poutine.trace(poutine.condition(guide, data={"_AutoFlow_latent": z})).get_trace()
        model = poutine.trace(poutine.replay(nested, trace=trace)).get_trace()
        jacobian = trace.log_prob_sum() - guide.get_posterior().log_prob(z)
        torch.testing.assert_close(value, model.log_prob_sum() - jacobian, rtol=1e-4, atol=1e-4)


def test_the_prior_alone_has_log_evidence_zero() -> None:
    def prior() -> None:
        poutine.uncondition(nested)()

    bare = poutine.block(prior, hide=["y"])
    guide = AutoFlow(bare, Linear(), init_scale=1.4)
    guide()
    weighed = importance_sample(bare, guide)
    assert weighed.log_evidence.item() == pytest.approx(0, abs=4 * weighed.log_evidence_se.item() + 0.02)


def test_draws_together_are_those_one_by_one_and_obey_the_bounds() -> None:
    guide = made(nested, init_scale=1.0)
    latent = torch.randn(6, 7)
    together = guide.constrain(latent)
    for n, z in enumerate(latent):
        for name, value in guide.constrain(z[None]).items():
            torch.testing.assert_close(together[name][n], value[0])
    assert (together["b"].abs() < together["a"][:, None]).all()
    assert (together["c"] > together["a"][:, None]).all()
    drawn = Predictive(nested, guide=guide, num_samples=50, parallel=True, return_sites=("a", "b"))()
    assert (drawn["b"].abs().reshape(50, 3) < drawn["a"].reshape(50, 1)).all()


def test_a_model_of_one_draw_at_a_time_has_its_quantiles() -> None:
    def model() -> None:
        a = pyro.sample("a", dist.Uniform(1.0, 2.0))
        pyro.sample("b", dist.Uniform(0.0, float(a.detach())))

    found = made(model, draws=300).quantiles([0.0, 1.0])
    assert found["b"][1] <= found["a"][1]
    assert found["b"][1] > 0.5


def test_every_draw_is_right_without_vectorizing() -> None:
    def model() -> None:
        a = pyro.sample("a", dist.Uniform(1.0, 2.0))
        pyro.sample("b", dist.Uniform(0.0, float(a.detach())))

    guide = AutoFlow(model, Linear())
    fit = fit_autoguide(model, guide, GuideSettings(10, 0.01, 2, units=5, vectorize=False), progress=False)
    assert fit.losses.isfinite().all()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoisyParetoKWarning)
        assert importance_sample(model, guide, draws=500).log_evidence.item() == pytest.approx(0, abs=0.1)


def test_bounds_follow_the_arguments_and_the_parameters() -> None:
    def model(width: float) -> None:
        pyro.sample("a", dist.Uniform(torch.zeros(2), width).to_event(1))

    guide = AutoFlow(model, Linear(), init_scale=2.0)
    guide(1.0)
    assert guide.median(100.0)["a"].min() > 40
    assert guide.median()["a"].max() < 1
    weighed = importance_sample(model, guide, 100.0)
    assert weighed.log_evidence.item() == pytest.approx(0, abs=0.1)


def test_a_support_of_another_kind_or_shape_is_refused() -> None:
    calls: list[int] = []

    def kind() -> None:
        calls.append(1)
        pyro.sample("a", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        law = dist.Uniform(0.0, 1.0) if len(calls) < 6 else dist.LogNormal(0.0, 1.0)
        pyro.sample("b", law)

    guide = made(kind)
    calls.extend([1] * 9)
    with pytest.raises(FlowvaeError, match=r"site 'b'.*Uniform.*LogNormal"):
        guide()


def test_a_bound_that_a_hidden_site_decides_is_refused() -> None:
    with pytest.raises(FlowvaeError, match=r"site 'b'.*hidden.*Uniform\(0, 1\)"):
        AutoFlow(poutine.block(nested, hide=["a"]), Linear())()


@pytest.mark.parametrize("make", [AutoNormal, AutoMultivariateNormal])
def test_pyros_guides_with_the_bounds_of_one_run_are_refused(make: Any) -> None:
    guide = make(bounded)
    with pytest.raises(FlowvaeError, match=rf"site 'b'.*{make.__name__}.*AutoFlow.*Uniform\(0, 1\)"):
        fit_autoguide(bounded, guide, QUICK, progress=False)
    with pytest.raises(FlowvaeError, match=rf"site 'b'.*{make.__name__}"):
        importance_sample(bounded, guide)
    pyro.clear_param_store()


def test_nuts_with_the_bounds_of_one_run_is_refused() -> None:
    with pytest.raises(FlowvaeError, match=r"site 'b'.*NUTS"):
        run_nuts(bounded, draws=5, warmup=5, chains=1)


def test_pyros_guides_are_welcome_where_bounds_stay() -> None:
    def model() -> None:
        a = pyro.sample("a", dist.Uniform(torch.zeros(2), 3.0).to_event(1))
        pyro.sample("y", dist.Normal(a, 0.1).to_event(1), obs=torch.ones(2))

    fit_autoguide(model, AutoNormal(model), QUICK, progress=False)
    pyro.clear_param_store()


def test_angles_of_pyros_guides_are_refused() -> None:
    def model() -> None:
        pyro.sample("a", dist.VonMises(torch.zeros(2), 1.0).to_event(1))

    with pytest.raises(FlowvaeError, match=r"site 'a'.*AutoNormal.*AutoFlow"):
        fit_autoguide(model, AutoNormal(model), QUICK, progress=False)
    pyro.clear_param_store()


def test_a_point_may_be_an_angle() -> None:
    def model() -> None:
        angle = pyro.sample("angle", dist.VonMises(torch.zeros(()), 1.0))
        pyro.sample("y", dist.VonMises(angle, 2.0), obs=torch.tensor(1.0))

    guide = AutoDelta(model)
    fit_autoguide(model, guide, GuideSettings(steps=300, particles=1, path=False), progress=False)
    # tan of the mode: κ of the data times sin of the datum, over that times its cos plus κ of the prior
    expected = math.atan2(2 * math.sin(1), 2 * math.cos(1) + 1)
    assert guide()["angle"].item() == pytest.approx(expected, abs=1e-3)
    pyro.clear_param_store()


def local(subsample: int | None) -> Any:
    data = torch.randn(100)

    def model() -> None:
        mu = pyro.sample("mu", dist.Normal(torch.zeros(()), 10.0))
        with pyro.plate("data", 100, subsample_size=subsample) as index:
            z = pyro.sample("z", dist.Normal(mu, 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=data[index])

    return model


def test_local_latents_of_a_part_of_the_data_are_refused() -> None:
    model = local(10)
    words = r"'z'.*'data'.*10 of 100.*encoder={'data'"
    with pytest.raises(FlowvaeError, match=words):
        AutoFlow(model, Linear())()
    with pytest.raises(FlowvaeError, match=words):
        fit_autoguide(model, AutoMultivariateNormal(model), QUICK, progress=False)
    pyro.clear_param_store()
    fit_autoguide(model, AutoNormal(model), QUICK, progress=False)  # has a Gaussian for each of all data
    pyro.clear_param_store()
    assert made(local(None)).latent_dim == 101


def test_local_latents_may_have_a_guide_of_their_own() -> None:
    def model() -> None:
        pyro.sample("nu", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        local(10)()

    guide = AutoGuideList(model)
    guide.append(AutoFlow(poutine.block(model, hide=["z"]), Linear()))
    guide.append(AutoNormal(poutine.block(model, expose=["z"])))
    fit = fit_autoguide(model, guide, GuideSettings(3, particles=1), progress=False)
    assert fit.losses.isfinite().all()
    assert guide[1].locs.z.shape == (100,)
    pyro.clear_param_store()


def loop() -> None:
    for i in pyro.plate("data", 2):
        pyro.sample(f"z{i}", dist.Normal(0.0, 1.0))


def test_a_plate_that_is_a_loop_is_refused() -> None:
    with pytest.raises(FlowvaeError, match=r"'z0'.*'data'.*with pyro.plate"):
        AutoFlow(loop, Linear())()


@pytest.mark.parametrize(
    "again", [copy.deepcopy, lambda guide: pickle.loads(pickle.dumps(guide))], ids=["copy", "pickle"]
)
def test_a_copied_guide_is_whole_and_leaves_the_first_whole(again: Any) -> None:
    fresh = again(AutoFlow(bounded, Linear()))
    fresh()
    guide = made(bounded)
    other = again(guide)
    latent = torch.randn(4, 2)
    for name, value in guide.constrain(latent).items():
        assert torch.equal(other.constrain(latent)[name], value)
    assert other.model is guide.model is bounded
    fit_autoguide(bounded, other, QUICK, progress=False)
    moved = [not torch.equal(a, b) for a, b in zip(guide.parameters(), other.parameters(), strict=True)]
    assert any(moved)
    guide()


def test_a_copied_guide_shares_its_model() -> None:
    class Learned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.loc = nn.Parameter(torch.zeros(2))

        def forward(self) -> None:
            pyro.sample("z", dist.Normal(self.loc * 1.0, 1.0).to_event(1))

    model = Learned()
    assert copy.deepcopy(made(model)).model is model


def test_a_model_that_cannot_be_pickled_is_missed_where_it_is_needed() -> None:
    def inner() -> None:
        nested()

    other = pickle.loads(pickle.dumps(made(inner)))
    with pytest.raises(FlowvaeError, match=r"pickled without its model.*state_dict"):
        other()


@pytest.mark.parametrize("seed", range(4))
def test_extreme_prior_draws_do_not_stop_a_fit(seed: int) -> None:
    def model() -> None:
        scale = pyro.sample("scale", dist.LogNormal(torch.zeros(()), 1000.0))
        loc = pyro.sample("loc", dist.Normal(torch.zeros(()), 1.0))
        with pyro.plate("data", 2):
            pyro.sample("y", dist.Normal(loc, scale), obs=torch.tensor([0.1, 0.5]))

    guide = AutoFlow(model, Linear())
    fit = fit_autoguide(model, guide, GuideSettings(steps=5, particles=8), seed=seed, progress=False)
    assert fit.losses.isfinite().all()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoisyParetoKWarning)
        assert math.isfinite(importance_sample(model, guide, draws=100, seed=seed).log_evidence)


def test_a_vague_gamma_prior_starts_where_it_has_a_gradient() -> None:
    def model() -> None:
        precision = pyro.sample("precision", dist.Gamma(torch.tensor(0.001), 0.001))
        loc = pyro.sample("loc", dist.Normal(torch.zeros(()), 1.0))
        pyro.sample("y", dist.Normal(loc, precision.rsqrt()), obs=torch.tensor(0.5))

    assert fit_autoguide(model, AutoFlow(model, Linear()), QUICK, progress=False).losses.isfinite().all()


def test_a_start_outside_the_support_is_named() -> None:
    start = init_to_value(values={"a": torch.tensor(-3.0)})
    with pytest.raises(FlowvaeError, match=r"site 'a'.*-3\.0.*init_loc_fn"):
        AutoFlow(bounded, Linear(), init_loc_fn=start)()


def test_an_empty_site_and_a_long_one_have_medians() -> None:
    def model() -> None:
        pyro.sample("none", dist.Normal(torch.zeros(0), 1.0).to_event(1))
        pyro.sample("many", dist.Normal(torch.zeros(20), 1.0).to_event(1))

    guide = made(model, draws=1000)
    assert {name: value.shape for name, value in guide.median().items()} == {"none": (0,), "many": (20,)}
    assert guide.quantiles([0.1, 0.9])["none"].shape == (2, 0)
