"""The flow guide for any Pyro model: against autograd, integrals, closed forms and Pyro's own guides."""

from __future__ import annotations

import copy
import math
import warnings
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from helpers import EXACT, FAMILIES, disturb
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal, init_to_value
from torch import Tensor

from flowvae.core.errors import FlowvaeError, SlowDirectionWarning
from flowvae.flows import IAF, MAF, CouplingNSF, FlowSpec, Linear, RealNVP, Sylvester
from flowvae.guides import AutoFlow

SMALL = IAF(2, (8,))
POSTERIORS = {name: flow for name, flow in EXACT.items() if "posterior" in flow.roles}
families = pytest.mark.parametrize("flow", POSTERIORS.values(), ids=POSTERIORS.keys())
DATA = torch.tensor([0.3, -1.0, 2.0, 0.7])
START = {"mu": torch.tensor(0.4), "sigma": torch.tensor(1.5), "share": torch.tensor([0.2, 0.5, 0.3])}


def model(y: Tensor = DATA) -> Tensor:
    """Real, positive, and simplex variables and a plate of real ones: 1 + 1 + 2 + 4 unconstrained numbers."""
    y = y.to(torch.get_default_dtype())
    mu = pyro.sample("mu", dist.Normal(torch.zeros(()), 2.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(torch.ones(())))
    share = pyro.sample("share", dist.Dirichlet(torch.ones(3)))
    with pyro.plate("data", len(y)):
        effect = pyro.sample("effect", dist.Normal(mu + share[..., 0], sigma))
        return pyro.sample("y", dist.Normal(effect, 0.5), obs=y)


def plane() -> None:
    """Two real variables."""
    x = pyro.sample("x", dist.Normal(torch.zeros(()), 1.0))
    pyro.sample("y", dist.Normal(x**2, 0.5))


def made(flow: FlowSpec, of: Any = model, disturbed: float = 0.0, **settings: Any) -> AutoFlow:
    """A guide that has run once."""
    values = {name: value.to(torch.get_default_dtype()) for name, value in START.items()}
    guide = AutoFlow(of, flow, init_loc_fn=init_to_value(values=values), **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SlowDirectionWarning)
        guide()
    disturb(guide, disturbed)
    return guide


@families
@pytest.mark.usefixtures("float64")
def test_starts_as_the_gaussian_that_was_asked_for(flow: FlowSpec) -> None:
    guide = made(flow, init_scale=0.3)
    posterior = guide.get_posterior()
    loc = torch.cat((START["mu"].double()[None], START["sigma"].double().log()[None]))
    z = torch.randn(20, 8)
    torch.testing.assert_close(guide.affine_layer.loc_and_scale()[0][:2], loc)
    gaussian = dist.MultivariateNormal(guide.affine_layer.loc_and_scale()[0], 0.09 * torch.eye(8))
    torch.testing.assert_close(posterior.log_prob(z), gaussian.log_prob(z))


@families
@pytest.mark.usefixtures("float64")
def test_density_is_that_of_the_base_over_the_jacobian_of_autograd(flow: FlowSpec) -> None:
    posterior = made(flow, disturbed=0.3).get_posterior()
    generate = posterior.flow.transform.inv
    u = torch.randn(3, 8)
    jacobian = torch.stack([torch.autograd.functional.jacobian(generate, each) for each in u])
    expected = dist.Normal(torch.zeros(8), 1.0).to_event(1).log_prob(u) - torch.linalg.slogdet(jacobian)[1]
    torch.testing.assert_close(posterior.log_prob(generate(u)), expected, rtol=1e-7, atol=1e-7)


@families
@pytest.mark.parametrize("affine", ["full", "diagonal"])
def test_every_parameter_has_a_gradient(flow: FlowSpec, affine: str) -> None:
    guide = made(flow, disturbed=0.1, affine=affine)
    Trace_ELBO(num_particles=8, vectorize_particles=True, max_plate_nesting=1).loss_and_grads(model, guide)
    for name, parameter in guide.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("flow", [SMALL, CouplingNSF(2, (8,)), RealNVP(2, (8,)), Linear()], ids=repr)
@pytest.mark.usefixtures("float64")
def test_density_integrates_to_one(flow: FlowSpec) -> None:
    guide = made(flow, plane, disturbed=0.4, init_scale=1.0)
    side = torch.linspace(-25, 25, 601)
    with torch.no_grad():
        density = guide.get_posterior().log_prob(torch.cartesian_prod(side, side)).exp()
    assert density.sum().item() * (side[1] - side[0]).item() ** 2 == pytest.approx(1, abs=2e-3)


@pytest.mark.usefixtures("float64")
def test_density_of_the_constrained_sites_is_the_change_of_variables() -> None:
    guide = made(SMALL, disturbed=0.3)
    trace = poutine.trace(guide).get_trace()
    latent = trace.nodes["_AutoFlow_latent"]["value"].detach()

    def constrained(z: Tensor) -> Tensor:
        sites = guide.constrain(z[None])
        sites["share"] = sites["share"][:, :-1]  # two of the three coordinates parametrize the simplex
        return torch.cat([value.reshape(-1) for value in sites.values()])

    jacobian = torch.autograd.functional.jacobian(constrained, latent)
    expected = guide.get_posterior().log_prob(latent) - torch.linalg.slogdet(jacobian)[1]
    torch.testing.assert_close(trace.log_prob_sum(), expected)
    for name, value in guide.constrain(latent[None]).items():
        torch.testing.assert_close(value[0], trace.nodes[name]["value"])


def test_draws_obey_the_constraints_and_predictive_runs_in_parallel() -> None:
    guide = made(SMALL, disturbed=0.2)
    for parallel in (False, True):
        drawn = Predictive(model, guide=guide, num_samples=7, parallel=parallel, return_sites=("sigma", "share", "y"))()
        assert drawn["y"].shape == (7, 4) or drawn["y"].shape == (1, 4)  # observed: one copy is enough
        assert (drawn["sigma"] > 0).all()
        torch.testing.assert_close(drawn["share"].reshape(7, 3).sum(-1), torch.ones(7))
    free = Predictive(poutine.uncondition(model), guide=guide, num_samples=7, parallel=True)()
    assert free["y"].shape == (7, 4)
    assert free["y"].var(0).min() > 0


def test_subsampled_data_are_weighed_as_in_pyro() -> None:
    def subsampled() -> None:
        x = pyro.sample("x", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("data", 4, subsample_size=2) as index:
            pyro.sample("y", dist.Normal(x[..., :1] + x[..., 1:], 1.0), obs=DATA[index])

    guide = AutoFlow(subsampled, SMALL)
    svi = SVI(subsampled, guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO(num_particles=4, vectorize_particles=True))
    assert math.isfinite(svi.step())


@pytest.mark.parametrize(
    "optim",
    [
        pyro.optim.Adam({"lr": 0.02}),
        pyro.optim.ClippedAdam({"lr": 0.02, "clip_norm": 5.0}),
        pyro.optim.ExponentialLR({"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.02}, "gamma": 0.99}),
    ],
    ids=["adam", "clipped", "scheduled"],
)
def test_plain_pyro_trains_it_and_no_parameter_is_global(optim: Any) -> None:
    guide = made(SMALL)
    before = copy.deepcopy(guide.state_dict())
    elbo = Trace_ELBO(num_particles=8, vectorize_particles=True, max_plate_nesting=1)
    svi = SVI(model, guide, optim, elbo)
    losses = [svi.step() for _ in range(120)]
    assert sum(losses[-20:]) < sum(losses[:20]) - 20 * 1.0
    moved = [name for name, value in guide.state_dict().items() if not torch.equal(value, before[name])]
    assert {name.rpartition(".")[0] for name, _ in guide.named_parameters()} <= {n.rpartition(".")[0] for n in moved}
    assert not list(pyro.get_param_store().keys())


def test_two_guides_of_one_class_do_not_share_parameters() -> None:
    first, second = made(SMALL), made(SMALL)
    kept = copy.deepcopy(second.state_dict())
    svi = SVI(model, first, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    svi.step()
    second()
    assert all(torch.equal(value, kept[name]) for name, value in second.state_dict().items())


def test_an_iaf_is_scored_at_its_own_draw_in_one_pass_a_transform() -> None:
    guide = made(IAF(3, (8,)))
    passes = []
    for module in guide.modules():
        if hasattr(module, "hyper"):
            module.hyper.register_forward_hook(lambda *_: passes.append(1))
    poutine.trace(guide).get_trace().compute_log_prob()
    assert len(passes) == 3


def test_quantiles_of_the_untrained_guide_are_those_of_its_gaussian() -> None:
    guide = made(SMALL, init_scale=0.2)
    levels = [0.1, 0.5, 0.9]
    found = guide.quantiles(levels)
    unit = torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor(levels))
    torch.testing.assert_close(found["sigma"], 1.5 * (0.2 * unit).exp(), rtol=0.02, atol=0)
    torch.testing.assert_close(found["mu"], 0.4 + 0.2 * unit, rtol=0, atol=0.02)
    assert found["share"].shape == (3, 3)
    assert found["effect"].shape == (3, 4)
    torch.testing.assert_close(guide.median()["sigma"], found["sigma"][1])


def test_it_contains_pyros_multivariate_normal_guide() -> None:
    peer = AutoMultivariateNormal(model, init_scale=0.5)
    peer()
    guide = made(SMALL)
    with torch.no_grad():
        peer.scale_tril_unconstrained.normal_()
        tril = peer.scale[..., None] * peer.scale_tril
        guide.affine_layer.restart(peer.loc, tril)
    z = torch.randn(9, 8)
    torch.testing.assert_close(guide.get_posterior().log_prob(z), peer.get_posterior().log_prob(z))
    pyro.clear_param_store()


def test_state_survives_a_round_trip() -> None:
    guide = made(CouplingNSF(2, (8,)), disturbed=0.3)
    guide.affine_layer.restart(torch.arange(8.0), torch.eye(8) + torch.ones(8, 8).tril(-1))
    other = AutoFlow(model, CouplingNSF(2, (8,)))
    with pytest.raises(FlowvaeError, match="call the guide once"):
        other.load_state_dict(guide.state_dict())
    other()
    other.load_state_dict(guide.state_dict())
    z = torch.randn(5, 8)
    torch.testing.assert_close(other.get_posterior().log_prob(z), guide.get_posterior().log_prob(z), rtol=0, atol=0)


def test_dtype_is_that_of_the_model() -> None:
    def double() -> None:
        pyro.sample("x", dist.Normal(torch.zeros(3, dtype=torch.float64), 1.0).to_event(1))

    guide = made(SMALL, double)
    assert {parameter.dtype for parameter in guide.parameters()} == {torch.float64}
    assert guide()["x"].dtype == torch.float64


@pytest.mark.parametrize("name", [name for name, flow in FAMILIES.items() if "posterior" not in flow.roles])
def test_a_family_that_cannot_be_a_posterior_is_refused_with_its_reason(name: str) -> None:
    flow = FAMILIES[name]
    with pytest.raises(FlowvaeError, match=r"AutoFlow\.flow = .* cannot be a posterior") as caught:
        AutoFlow(model, flow)
    assert flow.why_not in str(caught.value)


def test_mistakes_are_named() -> None:
    def line() -> None:
        pyro.sample("x", dist.Normal(0.0, 1.0))

    with pytest.raises(FlowvaeError, match=r"1 unconstrained latent number.*AutoNormal"):
        AutoFlow(line, SMALL)()
    with pytest.raises(FlowvaeError, match=r"AutoFlow\.init_scale = -1\.0"):
        AutoFlow(model, SMALL, init_scale=-1.0)
    with pytest.raises(FlowvaeError, match=r"AutoFlow\.affine = 'ful'.*full"):
        AutoFlow(model, SMALL, affine="ful")
    with pytest.raises(FlowvaeError, match=r"must be a flow"):
        AutoFlow(model, "iaf")  # type: ignore[arg-type]
    with pytest.raises(FlowvaeError, match="has not been set up"):
        AutoFlow(model, SMALL).median()
    plane_guide = AutoFlow(plane, Sylvester(rank=5))
    for _ in range(2):  # and the second call does not take it for set up
        with pytest.raises(FlowvaeError, match="rank"):
            plane_guide()
    with pytest.warns(SlowDirectionWarning, match=r"MAF as a guide: .* network passes at latent 8"):
        AutoFlow(model, MAF(2, (8,)))()
