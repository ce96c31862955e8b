"""Latents inside a plate given an encoder: against closed forms, an integral, and guides written by hand."""

from __future__ import annotations

import copy
import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from helpers import EXACT, disturb
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import init_to_mean
from torch import Tensor, nn

from flowvae import MLP
from flowvae.evaluation import measure_likelihoods
from flowvae.flows import IAF, FlowSpec
from flowvae.guides import AmortizedGuide, AutoFlow, FlowGuide, Gaussian
from flowvae.inference import GuideSettings, fit_autoguide
from flowvae.inference.objectives.path_gradient import PathTraceELBO

PRIOR, TAU, NOISE = 5.0, 0.7, 1.0
SHARE = TAU**2 / (TAU**2 + NOISE**2)  # weight of y_i in E(θ_i given y_i, μ)


def hierarchy(y: Tensor, size: int | None = None, index: Tensor | None = None) -> None:
    """μ ~ N(0, 5²), θ_i ~ N(μ, 0.7²), y_i ~ N(θ_i, 1)."""
    mu = pyro.sample("mu", dist.Normal(y.new_zeros(()), PRIOR))
    with pyro.plate("data", len(y), subsample_size=size, subsample=index) as points:
        theta = pyro.sample("theta", dist.Normal(mu, TAU))
        pyro.sample("y", dist.Normal(theta, NOISE), obs=y[points])


def data(size: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return 2.0 + math.hypot(TAU, NOISE) * torch.randn(size, generator=generator, dtype=torch.get_default_dtype())


def posterior(y: Tensor) -> tuple[Tensor, float]:
    """Mean and standard deviation of μ given y."""
    variance = TAU**2 + NOISE**2
    precision = PRIOR**-2 + len(y) / variance
    return y.sum() / variance / precision, precision**-0.5


def log_marginal(y: Tensor, mu: Tensor) -> Tensor:
    """log p(y_i given μ)."""
    return dist.Normal(mu, math.hypot(TAU, NOISE)).log_prob(y)


class Column(nn.Module):
    """The data point itself as its feature."""

    def forward(self, y: Tensor, *_: Any, **__: Any) -> Tensor:
        return y[:, None]


def exact_guide(y: Tensor) -> AutoFlow:
    """A guide whose parameters are those of the posterior, q(μ given y) Π q(θ_i given y_i, μ)."""
    guide = AutoFlow(hierarchy, IAF(), encoder={"data": Column()})
    guide(y)
    loc, scale = posterior(y)
    guide.affine_layer.restart(loc[None], torch.full_like(loc[None], scale))
    (part,) = guide._locals()
    with torch.no_grad():
        for parameter in part.head.parameters():
            parameter.zero_()
        part.head.loc.weight[0, :2] = torch.tensor([SHARE, (1 - SHARE) * scale])  # of y_i and of (μ - loc) / scale
        part.head.loc.bias.copy_((1 - SHARE) * loc - part.center)
        part.head.log_scale.bias.fill_(0.5 * math.log(SHARE * NOISE**2))
    return guide


def log_weight(guide: Any, *args: Any, model: Any = hierarchy, **kwargs: Any) -> tuple[Tensor, Any]:
    drawn = poutine.trace(guide).get_trace(*args, **kwargs)
    met = poutine.trace(poutine.replay(model, trace=drawn)).get_trace(*args, **kwargs)
    return met.log_prob_sum() - drawn.log_prob_sum(), drawn


@pytest.mark.usefixtures("float64")
def test_at_the_posterior_every_draw_gives_the_evidence_and_gradients_vanish() -> None:
    y = data(30)
    guide = exact_guide(y)
    covariance = PRIOR**2 + (TAU**2 + NOISE**2) * torch.eye(30)
    evidence = dist.MultivariateNormal(torch.zeros(30), covariance).log_prob(y)
    for _ in range(5):
        torch.testing.assert_close(log_weight(guide, y)[0].detach(), evidence)
    PathTraceELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=1).loss_and_grads(hierarchy, guide, y)
    for name, parameter in guide.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() < 1e-8, name


@pytest.mark.usefixtures("float64")
def test_a_subsample_has_the_rows_and_the_scale_of_the_models_plate() -> None:
    """At the posterior, log p(y_i, θ_i given μ) - log q(θ_i given y_i, μ) = log p(y_i given μ), whatever θ_i is."""
    y = data(40)
    guide = exact_guide(y)
    loc, scale = posterior(y)
    some = torch.tensor([3, 17, 5, 39, 20])
    for arguments in ({"size": 5}, {"index": some}, {"index": some.flip(0)}):
        found, drawn = log_weight(guide, y, **arguments)
        mu, index = drawn.nodes["mu"]["value"], drawn.nodes["data"]["value"]
        if "index" in arguments:
            assert torch.equal(index, arguments["index"])
        of_mu = dist.Normal(0.0, PRIOR).log_prob(mu) - dist.Normal(loc, scale).log_prob(mu)
        torch.testing.assert_close(found, of_mu + 40 / 5 * log_marginal(y[index], mu).sum())


@pytest.mark.usefixtures("float64")
def test_path_gradients_of_a_subsample_are_those_of_the_points_that_were_drawn() -> None:
    """θ_i is at its posterior, so the gradients for the encoder's head vanish for every subsample."""
    y = data(40)
    guide = exact_guide(y)
    for _ in range(3):
        PathTraceELBO().loss_and_grads(hierarchy, guide, y, size=5)
    for parameter in guide._locals()[0].head.parameters():
        assert parameter.grad.abs().max() < 1e-8


def test_50_of_1000_train_to_the_posterior_of_each_of_them() -> None:
    y = data(1000)
    guide = AutoFlow(hierarchy, IAF(), encoder={"data": MLP((16,))}, draws=1000)
    fit_autoguide(
        hierarchy, guide, GuideSettings(steps=1200, learning_rate=0.03, particles=4), (y, 50), seed=1, progress=False
    )
    loc, scale = posterior(y)
    found = guide.quantiles([0.1587, 0.5, 0.8413], y, 50)
    assert found["mu"][1].item() == pytest.approx(loc.item(), abs=0.5 * scale)
    assert (found["mu"][2] - found["mu"][0]).item() / 2 == pytest.approx(scale, rel=0.25)
    means = SHARE * y + (1 - SHARE) * loc
    deviation = math.sqrt(SHARE * NOISE**2 + ((1 - SHARE) * scale) ** 2)
    assert (found["theta"][1] - means).square().mean().sqrt() < 0.1 * deviation
    assert ((found["theta"][2] - found["theta"][0]) / 2 / deviation - 1).abs().max() < 0.15


def test_without_the_draw_of_the_global_latents_the_bound_is_lower_by_their_mutual_information() -> None:
    """The best mean field is below log p(y); the structured guide reaches it."""
    y = data(20)
    settings = GuideSettings(steps=400, learning_rate=0.03, particles=8)
    covariance = PRIOR**2 + (TAU**2 + NOISE**2) * torch.eye(20)
    evidence = dist.MultivariateNormal(torch.zeros(20), covariance).log_prob(y).item()
    gaps = []
    for structured in (True, False):
        guide = AutoFlow(hierarchy, IAF(), encoder={"data": Column()}, structured=structured)
        fit = fit_autoguide(hierarchy, guide, settings, (y,), progress=False)
        gaps.append(evidence + fit.losses[-100:].mean().item())
    # KL of the best mean field: that of a Gaussian with the diagonal of the posterior's precision
    precision = torch.eye(21) * (TAU**-2 + NOISE**-2)
    precision[0, 0], precision[0, 1:], precision[1:, 0] = PRIOR**-2 + 20 * TAU**-2, -(TAU**-2), -(TAU**-2)
    best = 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision)).item()
    assert gaps[0] == pytest.approx(0, abs=0.02)
    assert gaps[1] == pytest.approx(best, abs=0.05)
    assert best > 0.3


class Decoder(nn.Module):
    """A VAE as a plain Pyro model, without a guide."""

    def __init__(self, latent: int = 3) -> None:
        super().__init__()
        self.latent, self.network = latent, nn.Sequential(nn.Linear(latent, 16), nn.Tanh(), nn.Linear(16, 6))

    def forward(self, x: Tensor) -> None:
        pyro.module("decoder", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(self.latent), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.network(z), 0.5).to_event(1), obs=x)


def images(size: int = 64) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    codes = torch.randn(size, 2, generator=generator)
    return torch.tanh(codes @ torch.randn(2, 6, generator=generator)) + 0.3 * torch.randn(size, 6, generator=generator)


@pytest.mark.parametrize("head", [Gaussian(), FlowGuide(IAF(2, (8,)))], ids=["gaussian", "iaf"])
def test_a_vae_without_a_guide_trains_as_the_pair_built_by_hand(head: Any) -> None:
    """Same networks, same random numbers: the same losses in every step, also where batches differ in size."""
    torch.manual_seed(0)
    x, model = images(), Decoder()
    guide = AutoFlow(model, IAF(2, (8,)), init_loc_fn=init_to_mean, encoder={"data": MLP((16,))}, local=head)
    guide(x)
    (part,) = guide._locals()
    hand = AmortizedGuide(copy.deepcopy(part.encoder.network), copy.deepcopy(part.head))
    losses, start = [], copy.deepcopy(model.state_dict())
    for each in (guide, hand):
        pyro.clear_param_store()
        model.load_state_dict(start)
        torch.manual_seed(1)
        svi = SVI(model, each, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO(num_particles=2, vectorize_particles=True))
        losses.append([svi.step(batch) for _ in range(25) for batch in (x[:40], x[40:])])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert sum(losses[0][-4:]) < 0.8 * sum(losses[0][:4])
    pyro.clear_param_store()


def test_measures_of_a_vae_take_it() -> None:
    torch.manual_seed(0)
    x, model = images(20), Decoder(2)
    guide = AutoFlow(model, IAF(2, (8,)), encoder={"data": MLP((16,))})
    guide(x)
    with torch.no_grad():  # a linear decoder, whose evidence is a Gaussian density
        model.network = nn.Linear(2, 6)
    weight, bias = model.network.weight.detach(), model.network.bias.detach()
    truth = dist.MultivariateNormal(bias, weight @ weight.T + 0.25 * torch.eye(6)).log_prob(x)
    found = measure_likelihoods(model, guide, x, draws=5000)
    assert (found.elbo < truth + 0.05).all()
    assert (found.log_evidence - truth).abs().max() < 0.2
    pyro.clear_param_store()


def groups(y: Tensor, size: int | None = None) -> None:
    """μ ~ N(0, 5²), τ ~ HalfNormal(2), θ_i ~ N(μ, τ²), y_ij ~ N(θ_i, 1): a global scale and local means."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfNormal(2.0))
    with pyro.plate("groups", len(y), subsample_size=size, dim=-2):
        batch = pyro.subsample(y, event_dim=1)
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        with pyro.plate("members", y.shape[1], dim=-1):
            pyro.sample("y", dist.Normal(theta, 1.0), obs=batch)


def test_a_global_scale_with_local_means_against_the_integral() -> None:
    generator = torch.Generator().manual_seed(2)
    y = 1 + 0.8 * torch.randn(100, 1, generator=generator) + torch.randn(100, 5, generator=generator)
    mu, tau = torch.meshgrid(torch.linspace(0, 2, 201), torch.linspace(0.2, 1.6, 201), indexing="ij")
    density = dist.Normal(0.0, 5.0).log_prob(mu) + dist.HalfNormal(2.0).log_prob(tau)
    density += dist.Normal(mu[..., None], (tau[..., None] ** 2 + 0.2).sqrt()).log_prob(y.mean(1)).sum(-1)
    weight = density.flatten().softmax(0).view_as(density)

    def moments(value: Tensor) -> tuple[float, float]:
        mean = (weight * value).sum()
        return mean.item(), (weight * (value - mean) ** 2).sum().sqrt().item()

    guide = AutoFlow(groups, IAF(2, (16,)), encoder={"groups": MLP((32,))}, draws=2000)
    fit_autoguide(groups, guide, GuideSettings(steps=1000, learning_rate=0.03, particles=8), (y,), progress=False)
    found = guide.quantiles([0.1587, 0.5, 0.8413], y)
    for name, value in (("mu", mu), ("tau", tau)):
        mean, deviation = moments(value)
        low, middle, high = found[name].tolist()
        assert middle == pytest.approx(mean, abs=0.25 * deviation)
        assert (high - low) / 2 == pytest.approx(deviation, rel=0.15)
    assert found["theta"].shape == (3, 100, 1)
    shrunk = moments(tau**2 / (tau**2 + 0.2))[0]
    means = shrunk * y.mean(1) + (1 - shrunk) * moments(mu)[0]
    assert (found["theta"][1, :, 0] - means).abs().max() < 0.15


SMALL = {name: flow for name, flow in EXACT.items() if "posterior" in flow.roles}


@pytest.mark.parametrize("flow", SMALL.values(), ids=SMALL.keys())
@pytest.mark.filterwarnings("ignore::flowvae.core.errors.SlowDirectionWarning")
def test_every_family_of_flows_is_a_local_distribution(flow: FlowSpec) -> None:
    """The density of the local draws is that of autograd's Jacobian, and every parameter has a gradient."""

    def model(x: Tensor) -> None:
        scale = pyro.sample("scale", dist.LogNormal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            share = pyro.sample("share", dist.Dirichlet(torch.ones(3)))
            rate = pyro.sample("rate", dist.Gamma(2.0, scale.sum(-1)[..., None]))
            pyro.sample("x", dist.Normal(share[..., :2] + rate[..., None], 1.0).to_event(1), obs=x)

    x = torch.randn(4, 2)
    guide = AutoFlow(model, flow, encoder={"data": nn.Linear(2, 3)})
    guide(x)
    disturb(guide, 0.1)
    elbo = Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1)
    elbo.loss_and_grads(model, guide, x)
    for name, parameter in guide.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    trace = poutine.trace(guide).get_trace(x)
    drawn = trace.nodes["_AutoFlow_latent_data"]["value"].detach()[0]

    def sites(w: Tensor) -> Tensor:
        free = w + guide._locals()[0].center
        share = torch.distributions.biject_to(dist.Dirichlet(torch.ones(3)).support)(free[:2])
        return torch.cat([share[:2], free[2:].exp()])

    assert torch.allclose(sites(drawn)[:2], trace.nodes["share"]["value"][0, :2], atol=1e-5)
    assert torch.allclose(sites(drawn)[2], trace.nodes["rate"]["value"][0], atol=1e-5)
    log_det = torch.linalg.slogdet(torch.autograd.functional.jacobian(sites, drawn))[1]
    trace.compute_log_prob()
    found = trace.nodes["share"]["log_prob"][0] + trace.nodes["rate"]["log_prob"][0]
    assert found.item() == pytest.approx(-log_det.item(), abs=1e-4)


def test_predictive_takes_local_draws_in_parallel() -> None:
    y = data(12)
    guide = AutoFlow(hierarchy, IAF(), encoder={"data": MLP((4,))})
    guide(y)
    free = poutine.uncondition(hierarchy)
    for parallel in (True, False):
        drawn = Predictive(free, guide=guide, num_samples=5, parallel=parallel)(y)
        assert drawn["y"].shape == (5, 12)
        assert drawn["theta"].shape == (5, 12)
        assert drawn["theta"].var(0).min() > 0
