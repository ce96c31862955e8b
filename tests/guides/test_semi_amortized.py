"""The semi-amortized guide: its steps reach the optimum, train the encoder, and are a function of the datum."""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from pyro.infer import Predictive, Trace_ELBO
from torch import Size, Tensor, nn
from torch.distributions import MultivariateNormal, kl_divergence

from flowvae import Experiment, FlowvaeError, SemiAmortized, Training, load
from flowvae.core.errors import ImproperDensityWarning
from flowvae.core.parts import Units, parse_likelihood
from flowvae.evaluation import measure_likelihoods
from flowvae.flows import CNF, IAF, SOSPF, Inverse, Linear
from flowvae.guides import AmortizedGuide, FlowGuide, GuideSpec, SemiAmortizedGuide
from flowvae.inference import log_joint, refine
from flowvae.models import VAE, LinearGaussian, StandardNormal
from flowvae.networks import MLP

TINY = Experiment(
    latent=2,
    encoder=MLP((8,)),
    decoder=MLP((8,)),
    inference=Training(epochs=2, device="cpu", checkpoint_seconds=0.0),
    guide=SemiAmortized(steps=2),
)


def oracle() -> tuple[LinearGaussian, Tensor]:
    torch.manual_seed(2)
    model = LinearGaussian(torch.randn(7, 3), torch.randn(7), scale=0.6)
    with torch.no_grad():
        return model, model(None, 5)


def guide_of(spec: SemiAmortized, model: LinearGaussian, head: GuideSpec | None = None) -> SemiAmortizedGuide:
    torch.manual_seed(0)
    built = (head or spec).build(3, 7)
    return SemiAmortizedGuide(nn.Identity(), built, 3, partial(log_joint, model), spec)


def gap(model: LinearGaussian, guide: AmortizedGuide, x: Tensor) -> Tensor:
    """KL(q || p(z | x)) in closed form."""
    q = guide.posterior(x)
    if not isinstance(q, MultivariateNormal):
        q = MultivariateNormal(q.base_dist.loc, scale_tril=torch.diag_embed(q.base_dist.scale))
    return kl_divergence(q, model.posterior(x)).detach()


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("base", ["gaussian", "full-rank"])
def test_enough_steps_make_up_for_an_untrained_encoder(base: str) -> None:
    model, x = oracle()
    best = model.mean_field_gap().detach() if base == "gaussian" else torch.tensor(0.0)
    gaps = [
        gap(model, guide_of(SemiAmortized(base, steps, learning_rate=0.02, draws=32), model), x) - best
        for steps in (1, 10, 150)
    ]
    assert gaps[0].min() > 1
    assert (gaps[1] < gaps[0]).all()
    assert gaps[2].max() < 0.01
    assert gaps[2].min() > -1e-9


@pytest.mark.usefixtures("float64")
def test_one_step_is_the_gradient_of_the_exact_elbo() -> None:
    """With a linear-Gaussian model the ELBO is known: ∇_μ = Λ (m − μ), ∇_log σ = 1 − σ² Λ_ii."""
    model, x = oracle()
    spec = SemiAmortized(steps=1, learning_rate=1e-3, draws=4096, clip=None)
    guide = guide_of(spec, model)
    loc, scale = guide.head.loc(x), guide.head.log_scale(x).exp()
    precision = model.precision()
    q = guide.posterior(x).base_dist
    expected = (model.posterior(x).loc - loc) @ precision
    torch.testing.assert_close((q.loc - loc) / 1e-3, expected, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(
        (q.scale / scale).log() / 1e-3, 1 - scale**2 * precision.diagonal(), rtol=1e-2, atol=1e-2
    )
    # clipping: a step of a length that is known, in the same direction
    short = guide_of(replace(spec, clip=0.5), model).posterior(x).base_dist
    step = torch.cat(((short.loc - loc), (short.scale / scale).log()), -1)
    torch.testing.assert_close(step.norm(dim=-1), torch.full((5,), 0.5e-3))


@pytest.mark.usefixtures("float64")
def test_second_order_gradients_are_those_of_finite_differences() -> None:
    model, x = oracle()
    torch.manual_seed(1)
    noise = torch.randn(6, 1, 3)

    def loss(guide: SemiAmortizedGuide) -> Tensor:
        q = guide.posterior(x).base_dist
        z = q.loc + q.scale * noise
        return (guide.posterior(x).log_prob(z) - log_joint(model, x, z)).mean()

    agrees = {}
    for second_order in (True, False):
        guide = guide_of(SemiAmortized(steps=3, learning_rate=0.02, second_order=second_order), model)
        weights = [guide.head.loc.bias, model.weight]
        gradients = torch.autograd.grad(loss(guide), weights)
        for name, weight, gradient in zip(("encoder", "model"), weights, gradients, strict=True):
            direction = torch.randn(weight.shape)
            ends = []
            for sign in (1, -1):
                with torch.no_grad():
                    weight.add_(sign * 1e-6 * direction)
                ends.append(loss(guide).item())
                with torch.no_grad():
                    weight.sub_(sign * 1e-6 * direction)
            slope = (ends[0] - ends[1]) / 2e-6
            agrees[name, second_order] = abs(slope - (gradient * direction).sum().item()) < 1e-5 * abs(slope)
    # what differentiates through the steps is right, for encoder and model; what does not is an approximation
    assert agrees == {
        ("encoder", True): True,
        ("model", True): True,
        ("encoder", False): False,
        ("model", False): False,
    }


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("second_order", [True, False])
@pytest.mark.parametrize("flow", [None, IAF(1, (8,)), Linear()], ids=["gaussian", "iaf", "linear"])
def test_every_parameter_gets_a_gradient(flow: IAF | Linear | None, second_order: bool) -> None:
    model, x = oracle()
    head = None if flow is None else FlowGuide(flow, context=4)
    guide = guide_of(SemiAmortized(steps=2, second_order=second_order), model, head)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1).loss_and_grads(model, guide, x)
    for part in (model, guide):
        for name, parameter in part.named_parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.abs().sum() > 0, name


@pytest.mark.usefixtures("float64")
def test_the_guide_is_a_function_of_the_datum_with_and_without_gradients() -> None:
    model, x = oracle()
    guide = guide_of(SemiAmortized(), model)
    with_gradients = guide.posterior(x).base_dist
    assert with_gradients.loc.requires_grad
    with torch.no_grad():
        without = guide.posterior(x[3:]).base_dist
    assert not without.loc.requires_grad
    torch.testing.assert_close(without.loc, with_gradients.loc[3:].detach())
    torch.testing.assert_close(without.scale, with_gradients.scale[3:].detach())
    assert all(parameter.grad is None for part in (model, guide) for parameter in part.parameters())
    result = measure_likelihoods(model, guide, x, draws=300, seed=0)
    assert (result.elbo < result.log_evidence).all()
    assert Predictive(model, guide=guide, num_samples=4, parallel=True)(x)["z"].shape == (4, 5, 3)
    assert not any("weight" in name and "log_joint" in name for name in guide.state_dict())
    assert {name.split(".")[0] for name in guide.state_dict()} == {"head", "noise"}


def test_its_steps_enter_no_statistics_of_the_model() -> None:
    """An optimal noise scale is that of the codes of a training, not of the codes on the way to them."""
    torch.manual_seed(0)
    likelihood = parse_likelihood("gaussian:optimal").build(Size((7,)), Units(torch.zeros(7), torch.ones(7)))
    decoder = nn.Sequential(nn.Linear(3, 7), nn.BatchNorm1d(7))
    model = VAE(StandardNormal().build(3), decoder, likelihood)
    guide = guide_of(SemiAmortized(steps=3), model)  # type: ignore[arg-type]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    guide.posterior(torch.randn(5, 7))
    assert model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    Trace_ELBO().loss(model, guide, torch.randn(5, 7))
    assert likelihood.batches == 1


def test_an_experiment_runs_resumes_and_loads(tmp_path: Path) -> None:
    whole = TINY.run(tmp_path / "whole", draws=5, progress=False)
    again = load(tmp_path / "whole")
    assert again.experiment == TINY
    for name, value in whole.pair.guide.state_dict().items():
        assert torch.equal(value, again.pair.guide.state_dict()[name]), name
    before = {metric.name: metric.value for metric in whole.metrics}
    for metric in again.evaluate(draws=5, progress=False):
        assert metric.value == before[metric.name]
    resumed = TINY.run(tmp_path / "whole", resume=True, draws=5, progress=False)
    assert {metric.name: metric.value for metric in resumed.metrics} == before


@pytest.mark.parametrize(
    "settings", [{"steps": 0}, {"learning_rate": -1.0}, {"base": "flow"}, {"draws": 0}, {"clip": 0.0}]
)
def test_wrong_settings_are_refused(settings: dict[str, object]) -> None:
    (name,) = settings
    with pytest.raises(FlowvaeError, match=f"SemiAmortized.{name}"):
        SemiAmortized(**settings)  # type: ignore[arg-type]


@pytest.mark.usefixtures("float64")
def test_a_refinement_starts_from_what_the_steps_have_reached() -> None:
    model, x = oracle()
    guide = guide_of(SemiAmortized(steps=60, learning_rate=0.02, draws=32, clip=None), model)
    start = gap(model, guide, x)
    refined = refine(model, guide, x, steps=1, learning_rate=1e-9)
    torch.testing.assert_close(gap(model, refined, x), start, rtol=1e-6, atol=1e-6)  # type: ignore[arg-type]
    guide.settings = replace(guide.settings, learning_rate=1e-9)  # the encoder's own answer is far from there
    assert (gap(model, guide, x) > start + 1).all()


@pytest.mark.parametrize("prior", [CNF((4,)), SOSPF(1, (4,)), Inverse(CNF((4,)))], ids=repr)
def test_a_prior_without_second_derivatives_is_refused_and_trains_without_them(prior: CNF | SOSPF | Inverse) -> None:  # type: ignore[type-arg]
    with pytest.raises(FlowvaeError, match=r"(CNF|SOSPF|Inverse) does not have; set second_order to false"):
        replace(TINY, prior=prior)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImproperDensityWarning)
        pair = replace(TINY, prior=prior, guide=SemiAmortized(steps=1, second_order=False)).build(TINY.data.load(0))
    loss = Trace_ELBO().differentiable_loss(*pair, TINY.data.load(0).train[:3])
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in pair.guide.encoder.parameters())
