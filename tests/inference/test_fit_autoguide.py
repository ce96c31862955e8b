"""Guides fitted to any model: path gradients, the Gaussian that gives the units, and the loop."""

from __future__ import annotations

import math
import threading
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions.testing.fakes import NonreparameterizedNormal
from pyro.distributions.transforms import affine_autoregressive, iterated
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoIAFNormal, AutoNormal
from torch import Tensor, nn

from flowvae.core.errors import FlowvaeError
from flowvae.evaluation import importance_sample
from flowvae.flows import IAF, CouplingNSF, Linear
from flowvae.guides import AutoFlow
from flowvae.inference import GuideSettings, PathTraceELBO, TrainingStopped, fit_autoguide
from flowvae.inference.batch_and_match import batch_and_match, maximize_smoothed, unconstrained_log_joint
from flowvae.networks import declare_parameters

FLOWS = [IAF(2, (8,)), CouplingNSF(2, (8,)), Linear()]
WEIGHT = torch.tensor([[1.0, 0.9, 0.0], [0.8, 1.0, 0.3], [0.0, 0.2, 50.0]], dtype=torch.float64)
X = torch.tensor([0.5, -1.0, 20.0], dtype=torch.float64)
NOISE = 0.3


def linear() -> None:
    """z ~ N(0, I), x ~ N(W z, NOISE): everything is known exactly."""
    z = pyro.sample("z", dist.Normal(torch.zeros(3, dtype=torch.float64), 1.0).to_event(1))
    pyro.sample("x", dist.Normal(z @ WEIGHT.T, NOISE).to_event(1), obs=X)


def exact() -> tuple[Tensor, Tensor, float]:
    """Posterior mean and Cholesky factor, and log evidence in nats."""
    precision = WEIGHT.T @ WEIGHT / NOISE**2 + torch.eye(3, dtype=torch.float64)
    covariance = torch.linalg.inv(precision)
    evidence = dist.MultivariateNormal(torch.zeros_like(X), WEIGHT @ WEIGHT.T + NOISE**2 * torch.eye(3).double())
    loc = covariance @ WEIGHT.T @ X / NOISE**2
    return loc, torch.linalg.cholesky(covariance), evidence.log_prob(X).item()


def constrained() -> None:
    """A positive variable, a simplex, and a plate."""
    sigma = pyro.sample("sigma", dist.HalfCauchy(torch.ones(())))
    share = pyro.sample("share", dist.Dirichlet(torch.ones(3)))
    with pyro.plate("data", 4):
        effect = pyro.sample("effect", dist.Normal(share[..., 0], sigma))
        pyro.sample("y", dist.Normal(effect, 0.5), obs=torch.tensor([0.3, -1.0, 2.0, 0.7]))


def gradient(elbo: Any, guide: nn.Module, model: Any = linear) -> Tensor:
    guide.zero_grad()
    elbo.loss_and_grads(model, guide)
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in guide.parameters()]
    return torch.cat([part.flatten().double() for part in parts]).clone()


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: type(flow).__name__)
def test_path_gradients_vanish_at_the_exact_posterior_draw_by_draw(flow: Any) -> None:
    guide = AutoFlow(linear, flow)
    guide()
    loc, tril, evidence = exact()
    guide.affine_layer.restart(loc, tril)
    for particles in (1, 5):
        settings = {"num_particles": particles, "vectorize_particles": particles > 1, "max_plate_nesting": 0}
        assert gradient(PathTraceELBO(**settings), guide).abs().max() < 1e-6
        assert gradient(Trace_ELBO(**settings), guide).abs().max() > 1e-2
        assert PathTraceELBO(**settings).loss(linear, guide) == pytest.approx(-evidence, abs=1e-8)


@pytest.mark.parametrize(
    "make", [lambda m: AutoFlow(m, IAF(1, (4,)), init_scale=0.5), AutoNormal], ids=["flow", "pyro"]
)
def test_path_gradients_have_the_expectation_of_the_whole_gradient(make: Any) -> None:
    guide = make(constrained)
    guide()
    settings = {"num_particles": 500, "vectorize_particles": True, "max_plate_nesting": 1}
    differences, whole = [], []
    for _ in range(60):
        state = torch.get_rng_state()
        path = gradient(PathTraceELBO(**settings), guide, constrained)
        torch.set_rng_state(state)  # the same draws: only the score term is between them
        whole.append(gradient(Trace_ELBO(**settings), guide, constrained))
        differences.append(path - whole[-1])
    difference = torch.stack(differences)
    error = difference.std(0) / math.sqrt(len(differences))
    touched = error > 1e-12
    assert touched.sum() > 5
    assert (difference.mean(0)[touched].abs() / error[touched]).max() < 4.5
    assert torch.stack(whole).mean(0).abs().max() > 10 * error.max()  # it would show
    pyro.clear_param_store()


@pytest.mark.usefixtures("float64")
def test_a_cache_of_draws_does_not_bring_the_score_back() -> None:
    guide = AutoIAFNormal(linear, hidden_dim=[8])
    guide()
    settings = {"num_particles": 20, "vectorize_particles": True, "max_plate_nesting": 0}
    gradients = []
    for elbo in (PathTraceELBO, Trace_ELBO):
        torch.manual_seed(3)
        gradients.append(gradient(elbo(**settings), guide))
    # the same flow in other tensors: whatever reaches log q through them does not count
    copied = iterated(1, affine_autoregressive, 3, hidden_dims=[8])
    copied.load_state_dict(guide.transform.state_dict())
    torch.manual_seed(3)
    z = guide.get_posterior().rsample((20,))
    log_guide = dist.TransformedDistribution(guide.get_base_dist(), copied).log_prob(z.clone())
    log_joint = dist.Normal(0.0, 1.0).log_prob(z).sum(-1) + dist.Normal(z @ WEIGHT.T, NOISE).log_prob(X).sum(-1)
    parameters = list(guide.parameters())
    expected = torch.autograd.grad(
        (log_guide - log_joint).mean(), parameters, allow_unused=True, materialize_grads=True
    )
    torch.testing.assert_close(gradients[0], torch.cat([each.flatten() for each in expected]))
    assert (gradients[0] - gradients[1]).abs().max() > 1e-3
    pyro.clear_param_store()


def test_path_gradients_leave_the_models_parameters_alone() -> None:
    class Learned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(2.0))

        def forward(self) -> None:
            pyro.param("scale", self.scale)
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, self.scale).to_event(1), obs=torch.ones(2))

    model = Learned()
    guide = AutoFlow(model, Linear())
    guide()
    gradients = []
    for elbo in (PathTraceELBO, Trace_ELBO):
        torch.manual_seed(0)
        model.scale.grad = None
        elbo(num_particles=3, vectorize_particles=True, max_plate_nesting=0).loss_and_grads(model, guide)
        gradients.append(model.scale.grad)
    torch.testing.assert_close(gradients[0], gradients[1])
    assert all(parameter.requires_grad for parameter in guide.parameters())
    pyro.clear_param_store()


def test_a_guide_without_a_path_is_refused() -> None:
    def guide() -> None:
        pyro.sample("z", NonreparameterizedNormal(torch.zeros(3).double(), 1.0).to_event(1))

    with pytest.raises(FlowvaeError, match="site 'z' of the guide is not reparametrized"):
        PathTraceELBO().loss_and_grads(linear, guide)


def test_scores_give_an_ill_conditioned_gaussian_exactly() -> None:
    torch.manual_seed(0)
    scale = torch.tensor([1e-2, 1.0, 1e2], dtype=torch.float64)
    mix = torch.tensor([[1.0, 0, 0], [0.999, 0.04, 0], [-0.99, 0.1, 0.1]], dtype=torch.float64)
    target = torch.distributions.MultivariateNormal(
        torch.tensor([5.0, -2.0, 40.0]).double(), scale_tril=scale[:, None] * mix
    )
    start = torch.zeros(3, dtype=torch.float64)
    loc = maximize_smoothed(target.log_prob, start, 0.01)
    assert target.log_prob(loc) > target.log_prob(start) + 1e4
    loc, tril = batch_and_match(target.log_prob, loc, torch.eye(3, dtype=torch.float64), iterations=100)
    torch.testing.assert_close((loc - target.loc) / scale, torch.zeros(3).double(), rtol=0, atol=1e-3)
    torch.testing.assert_close(tril / scale[:, None], target.scale_tril / scale[:, None], rtol=0, atol=2e-3)


def test_draws_without_a_density_do_not_spoil_the_match() -> None:
    def half(z: Tensor) -> Tensor:
        return torch.distributions.Normal(3.0, 0.5).log_prob(z).sum(-1) + 0 * (z[:, 0] - 1).sqrt()

    torch.manual_seed(0)
    loc, tril = batch_and_match(half, torch.tensor([2.0, 0.0]), torch.eye(2))
    torch.testing.assert_close(loc, torch.full((2,), 3.0).double(), rtol=0, atol=0.05)
    torch.testing.assert_close(tril, 0.5 * torch.eye(2).double(), rtol=0, atol=0.05)


def test_the_unconstrained_joint_is_the_importance_weight_plus_the_guides_density() -> None:
    guide = AutoFlow(constrained, IAF(1, (4,)))
    guide()
    log_joint = unconstrained_log_joint(constrained, guide)
    latent = torch.randn(6, 7)
    expected = []
    for z in latent:
        trace = pyro.poutine.trace(pyro.poutine.condition(guide, data={"_AutoFlow_latent": z})).get_trace()
        model = pyro.poutine.trace(pyro.poutine.replay(constrained, trace=trace)).get_trace()
        jacobian = trace.log_prob_sum() - guide.get_posterior().log_prob(z)
        expected.append(model.log_prob_sum() - jacobian)
    torch.testing.assert_close(log_joint(latent), torch.stack(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: type(flow).__name__)
def test_a_gaussian_posterior_is_reached_with_its_evidence(flow: Any) -> None:
    settings = GuideSettings(steps=20, learning_rate=1e-4, particles=8, units=40)
    fit = fit_autoguide(linear, AutoFlow(linear, flow), settings, progress=False)
    assert fit.losses.shape == (20,)
    assert -fit.losses.mean().item() == pytest.approx(exact()[2], abs=1e-3)
    assert repr(fit).startswith(f"GuideFit(20 steps: ELBO {exact()[2]:.1f}")
    assert len(repr(fit)) < 120
    assert fit.losses.std().item() < 1e-3


def test_the_affine_layer_alone_finds_it_too() -> None:
    settings = GuideSettings(steps=300, learning_rate=0.1, particles=8, units=0)
    fit = fit_autoguide(linear, AutoFlow(linear, Linear()), settings, progress=False)
    assert -fit.losses[-20:].mean().item() == pytest.approx(exact()[2], abs=0.03)


def test_a_seed_decides_the_fit_and_nothing_else_does() -> None:
    settings = GuideSettings(steps=5, particles=4, units=5)
    losses, follows = [], []
    for seed, before in ((1, 0), (1, 7), (2, 0)):
        torch.manual_seed(before)
        losses.append(
            fit_autoguide(constrained, AutoFlow(constrained, FLOWS[0]), settings, seed=seed, progress=False).losses
        )
        drawn = torch.rand(())
        torch.manual_seed(before)
        follows.append(drawn == torch.rand(()))
    assert torch.equal(losses[0], losses[1])
    assert not torch.equal(losses[0], losses[2])
    assert all(follows)


def test_a_guide_goes_on_from_where_it_is() -> None:
    guide = AutoFlow(linear, Linear())
    fit_autoguide(linear, guide, GuideSettings(steps=1, particles=2, units=40), progress=False)
    before = guide.affine_layer.center.clone()
    again = fit_autoguide(linear, guide, GuideSettings(steps=3, particles=2), progress=False)
    assert torch.equal(guide.affine_layer.center, before)
    assert -again.losses[0].item() == pytest.approx(exact()[2], abs=0.1)


def test_pyros_guides_and_arguments_are_welcome() -> None:
    def model(x: Tensor, scale: float) -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z, scale), obs=x)

    x = torch.ones(15)
    guide = AutoNormal(model)
    settings = GuideSettings(steps=300, learning_rate=0.05, particles=8)
    fit = fit_autoguide(model, guide, settings, args=(x,), kwargs={"scale": 1.0}, progress=False)
    assert guide.median()["z"].item() == pytest.approx(15 / 16, abs=1e-3)
    assert fit.losses[-30:].std() < 1e-3  # path gradients: the noise is gone with the error
    pyro.clear_param_store()


def test_a_loss_that_is_not_finite_stops_before_the_step() -> None:
    calls = []

    def model() -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        calls.append(1)
        pyro.factor("bad", z.sum() * (torch.nan if len(calls) > 6 else 1.0))

    guide = AutoFlow(model, Linear())
    with pytest.raises(TrainingStopped, match=r"step \d: the loss is nan"):
        fit_autoguide(model, guide, GuideSettings(steps=50, particles=1, units=0), progress=False)
    assert all(parameter.isfinite().all() for parameter in guide.parameters())


def test_settings_are_checked() -> None:
    for wrong, name in (({"steps": 0}, "steps"), ({"learning_rate": -1.0}, "learning_rate"), ({"units": -1}, "units")):
        with pytest.raises(FlowvaeError, match=rf"GuideSettings\.{name} = "):
            GuideSettings(**wrong)  # type: ignore[arg-type]


class _Learned(nn.Module):
    """z ~ N(0, w²), x = 3 observed with noise 1: the evidence is largest at w² = 3² − 1."""

    def __init__(self) -> None:
        super().__init__()
        self.log_w = nn.Parameter(torch.zeros(()))

    def forward(self) -> None:
        declare_parameters("model", self)
        z = pyro.sample("z", dist.Normal(torch.zeros(2), self.log_w.exp()).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=torch.full((2,), 3.0))


def test_placing_the_affine_layer_leaves_no_gradient_in_the_model() -> None:
    model = _Learned()
    guide = AutoFlow(model, Linear())
    guide()
    maximize_smoothed(unconstrained_log_joint(model, guide), torch.zeros(2), 0.1)
    assert model.log_w.grad is None
    fit_autoguide(model, guide, GuideSettings(steps=600, learning_rate=0.05, particles=16), progress=False)
    assert (2 * model.log_w).exp().item() == pytest.approx(8, rel=0.02)


def test_a_model_that_takes_one_draw_at_a_time_is_fitted_so() -> None:
    def model() -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        left, right = (float(part) for part in z.detach().flatten())  # plain Python, for one draw alone
        pyro.sample("x", dist.Normal(z + 0 * (left + right), 1.0).to_event(1), obs=torch.ones(2))

    guide = AutoFlow(model, Linear())
    settings = GuideSettings(steps=2, particles=2, units=5, vectorize=False)
    fit_autoguide(model, guide, settings, progress=False)
    assert guide.affine_layer.loc_and_scale()[0].tolist() == pytest.approx([0.5, 0.5], abs=0.05)


def test_a_parameter_of_no_module_is_refused_and_not_left_untrained() -> None:
    def model() -> None:
        scale = pyro.param("scale", torch.tensor(0.0)).exp()
        z = pyro.sample("z", dist.Normal(torch.zeros(2), scale).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=torch.ones(2))

    with pytest.raises(FlowvaeError, match=r"shape \(\) belongs neither to the model nor to the guide"):
        fit_autoguide(model, AutoFlow(model, Linear()), GuideSettings(steps=2, particles=2, units=0), progress=False)
    pyro.clear_param_store()


class _Hidden(nn.Module):
    """A guide for `mixture` with any of its sites, and with others."""

    def __init__(self, *sites: str) -> None:
        super().__init__()
        self.sites = sites
        self.loc = nn.Parameter(torch.zeros(2))

    def forward(self) -> None:
        declare_parameters("guide", self)
        pyro.sample("z", dist.Normal(self.loc, 1.0).to_event(1))
        for name in self.sites:
            pyro.sample(name, dist.Normal(torch.zeros(()), 1.0), infer={"is_auxiliary": name.startswith("auxiliary")})


def mixture() -> None:
    z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    k = pyro.sample("k", dist.Bernoulli(0.3))
    pyro.sample("y", dist.Normal(z.sum(-1) + 3 * k, 0.5), obs=torch.tensor(2.0))


def whole() -> None:
    z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    w = pyro.sample("w", dist.Normal(torch.zeros(()), 1.0))
    pyro.sample("y", dist.Normal(z.sum(-1) + w, 0.5), obs=torch.tensor(2.0))


@pytest.mark.parametrize(
    ("model", "guide", "words"),
    [
        (mixture, lambda: AutoFlow(poutine.block(mixture, hide=["k"]), Linear()), r"'k'.*Sum it out.*TraceEnum_ELBO"),
        (whole, lambda: AutoFlow(poutine.block(whole, hide=["w"]), Linear()), r"'w'.*Add it"),
        (whole, lambda: AutoNormal(poutine.block(whole, hide=["w"])), r"'w'.*Add it"),
        (whole, lambda: _Hidden("w", "v"), r"'v' of the guide is not in the model"),
        (whole, lambda: _Hidden("w", "y"), r"'y' of the guide is observed in the model"),
    ],
    ids=["discrete", "hidden", "pyro", "foreign", "observed"],
)
def test_a_guide_with_other_sites_than_the_model_is_refused(model: Any, guide: Any, words: str) -> None:
    with pytest.raises(FlowvaeError, match=words):
        fit_autoguide(model, guide(), GuideSettings(steps=2, particles=2), progress=False)
    pyro.clear_param_store()


def test_a_site_too_many_is_refused_in_weights_as_well() -> None:
    with pytest.raises(FlowvaeError, match="'v' of the guide is not in the model"):
        importance_sample(whole, _Hidden("w", "v"))


def test_an_auxiliary_site_is_welcome() -> None:
    guide = _Hidden("w", "auxiliary")
    assert fit_autoguide(whole, guide, GuideSettings(steps=2, particles=2), progress=False).losses.isfinite().all()


def test_two_threads_take_turns() -> None:
    settings = GuideSettings(steps=20, particles=4, units=10)
    found: dict[int, Tensor] = {}

    def fit(number: int) -> None:
        guide = AutoFlow(constrained, IAF(1, (4,)))
        found[number] = fit_autoguide(constrained, guide, settings, seed=number % 2, progress=False).losses
        found[number + 10] = importance_sample(constrained, guide, seed=number % 2).log_weight

    threads = [threading.Thread(target=fit, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(found) == [0, 1, 2, 3, 10, 11, 12, 13]
    for number in (0, 1, 10, 11):
        assert torch.equal(found[number], found[number + 2])
    assert not torch.equal(found[0], found[1])
