"""The VAE as a Pyro pair: plain SVI, Predictive, two models in one process, and the identity of Chen et al."""

from __future__ import annotations

import copy
import pickle
import warnings
from dataclasses import replace

import pyro
import pytest
import torch
from helpers import disturb
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO
from pyro.optim import Adam
from torch import Tensor, nn
from zuko.distributions import NormalizingFlow

from flowvae import Condition, Digits, Experiment, FlowGuide, FlowvaeError, FullRank, Gaussian, Inverse, Mixture
from flowvae.core.registry import families
from flowvae.data import Dataset, parse_likelihood
from flowvae.experiments.assemble import ModelGuide
from flowvae.flows import MAF, to_pyro
from flowvae.guides import AmortizedGuide
from flowvae.models import VAE, StandardNormal
from flowvae.networks import MLP

SMALL = Experiment(latent=3, encoder=MLP((16,)), decoder=MLP((16,)))


def digits() -> Dataset:
    return Digits().load(0)


def build(experiment: Experiment, data: Dataset) -> ModelGuide:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a family in its slow direction is not what is tested here
        return experiment.build(data)


def every_pair() -> list[object]:
    return [
        pytest.param(prior, guide, id=f"{p}-{g}")
        for p, prior in ((name, family.default) for name, family in families("prior").items())
        if not prior.why_not_joint
        for g, guide in ((name, family.default) for name, family in families("guide").items())
        # every prior with two guides, and every guide with two priors
        if p in ("normal", "maf") or g in ("gaussian", "iaf")
        if (p, g) != ("exemplar", "iaf")  # whose posteriors have no means in closed form
    ]


@pytest.mark.parametrize(("prior", "guide"), every_pair())
def test_every_parameter_of_every_pair_gets_a_gradient(prior: object, guide: object) -> None:
    data = digits()
    shape = (1, 4, 4) if getattr(prior, "shaped", False) else SMALL.latent
    model, q = build(replace(SMALL, latent=shape, prior=prior, guide=guide), data)
    disturb(model, 0.05)
    disturb(q, 0.05)
    Trace_ELBO().loss_and_grads(model, q, data.train[:16])
    for part in (model, q):
        for name, parameter in part.named_parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.abs().sum() > 0, name


def test_plain_svi_lowers_the_loss() -> None:
    data = digits()
    vae = SMALL.build(data)
    svi = SVI(vae.model, vae.guide, Adam({"lr": 3e-3}), loss=Trace_ELBO())
    x = data.train[:256]
    first = svi.evaluate_loss(x)
    for _ in range(30):
        svi.step(x)
    assert svi.evaluate_loss(x) < 0.8 * first
    assert len(pyro.get_param_store()) == 0


def test_two_models_in_one_process_do_not_meet() -> None:
    data = digits()
    one, other = SMALL.build(data), replace(SMALL, seed=1).build(data)
    before = copy.deepcopy(other.model.state_dict())
    svi = SVI(one.model, one.guide, Adam({"lr": 3e-3}), loss=Trace_ELBO())
    weight = one.model.decoder[0].weight.detach().clone()
    svi.step(data.train[:64])
    assert not torch.equal(one.model.decoder[0].weight, weight)
    for name, value in other.model.state_dict().items():
        assert torch.equal(value, before[name])
    # and the second one trains its own parameters, not the first one's
    weight = one.model.decoder[0].weight.detach().clone()
    SVI(other.model, other.guide, Adam({"lr": 3e-3}), loss=Trace_ELBO()).step(data.train[:64])
    assert torch.equal(one.model.decoder[0].weight, weight)
    assert not torch.equal(other.model.state_dict()["decoder.0.weight"], before["decoder.0.weight"])


def test_a_model_that_was_trained_can_be_pickled() -> None:
    data = digits()
    vae = SMALL.build(data)
    SVI(vae.model, vae.guide, Adam({"lr": 3e-3}), loss=Trace_ELBO()).step(data.train[:64])
    again = pickle.loads(pickle.dumps(vae.model))
    assert torch.equal(again.decoder[0].weight, vae.model.decoder[0].weight)


def test_predictive_generates_and_reconstructs() -> None:
    data = digits()
    vae = replace(SMALL, prior=MAF(), guide=FlowGuide(Inverse(MAF()))).build(data)
    prior = Predictive(vae.model, num_samples=4)(size=6)
    assert prior["z"].shape == (4, 6, 3)
    assert prior["x"].shape == (4, 6, 1, 8, 8)
    x = data.test[:5]
    posterior = Predictive(poutine.uncondition(vae.model), guide=vae.guide, num_samples=4)(x)
    assert posterior["x"].shape == (4, 5, 1, 8, 8)
    parallel = Predictive(vae.model, guide=vae.guide, num_samples=4, parallel=True)(x)
    assert parallel["z"].shape == (4, 5, 3)


def test_render_model_names_the_sites() -> None:
    data = digits()
    vae = SMALL.build(data)
    graph = pyro.render_model(vae.model, model_args=(data.train[:4],), render_distributions=True)
    assert "z" in graph.source
    assert "Binomial" in graph.source


def test_a_model_without_data_or_size_is_refused() -> None:
    with pytest.raises(FlowvaeError, match="size"):
        SMALL.build(digits()).model()


def test_conditions_that_do_not_fit_are_refused() -> None:
    x, c = digits().train[:4], torch.eye(10)[:4]
    free = SMALL.build(digits())
    model, guide = replace(SMALL, prior=Mixture(2), condition=Condition()).build(digits())
    assert model(x, c).shape == x.shape
    for ask, parts in (
        (lambda: free.model(x, c), ("(4, 10)",)),  # which would not depend on c
        (lambda: free.guide(x, c), ("(4, 10)",)),
        (lambda: free.model.generate(4, c), ("(4, 10)",)),
        (lambda: model(c=c, size=7), ("4", "7")),
        (lambda: model.generate(7, c), ("4", "7")),
        (lambda: guide(x, c[:1]), ("1", "4")),
        (lambda: guide(x, c[0]), ("(10,)",)),
        (lambda: model(x, c.double()), ("float64", "float32")),
        (lambda: guide(x, c.double()), ("float64", "float32")),
    ):
        with pytest.raises(FlowvaeError) as refused:
            ask()
        assert str(refused.value).startswith("c")
        for part in parts:
            assert part in str(refused.value)


def test_arms_that_share_a_seed_start_as_the_same_vae() -> None:
    data = digits()
    losses = []
    for prior in (StandardNormal(), MAF()):
        for guide in (Gaussian(), FullRank(), FlowGuide(Inverse(MAF())), FlowGuide(MAF(), conditioned=False)):
            vae = build(replace(SMALL, prior=prior, guide=guide), data)
            q = vae.guide.posterior(data.train[:32])
            torch.manual_seed(3)
            losses.append(Trace_ELBO().loss(vae.model, vae.guide, data.train[:32]))
            assert q.sample().shape == (32, 3)
    torch.testing.assert_close(torch.tensor(losses), torch.full((8,), losses[0]), rtol=1e-5, atol=0)


@pytest.mark.usefixtures("float64")
def test_a_mixture_prior_is_a_mixture_of_joint_densities() -> None:
    lazy = Mixture(components=4).build(3)
    disturb(lazy, 0.5)
    logits, centres, log_scales = lazy.phi
    z = torch.randn(6, 3)
    each = -0.5 * ((z[:, None] - centres) / (log_scales.exp() + 1e-6)) ** 2
    each = each - (log_scales.exp() + 1e-6).log() - 0.5 * torch.log(torch.tensor(2 * torch.pi))
    expected = (logits.log_softmax(0) + each.sum(-1)).logsumexp(-1)
    torch.testing.assert_close(lazy().log_prob(z), expected)


class _Composed(nn.Module):
    """The decoder g∘T of the right-hand side of the identity."""

    def __init__(self, decoder: nn.Module, transform: nn.Module) -> None:
        super().__init__()
        self.decoder, self.transform = decoder, transform

    def forward(self, u: Tensor) -> Tensor:
        return self.decoder(self.transform().inv(u))


class _Warped(nn.Module):
    """The guide (T⁻¹)_# q of the right-hand side."""

    def __init__(self, head: nn.Module, transform: nn.Module) -> None:
        super().__init__()
        self.head, self.transform = head, transform

    def forward(self, c: Tensor | None = None) -> NormalizingFlow:
        # normalizing direction of the warped guide: u → z = T(u), then the Gaussian
        return NormalizingFlow(self.transform().inv, self.head(c))


@pytest.mark.usefixtures("float64")
def test_flow_prior_is_a_deeper_decoder_and_a_warped_guide() -> None:
    """Chen et al. (2017): ELBO(prior T_#N, decoder g, guide q) = ELBO(N, g∘T, (T⁻¹)_# q), draw by draw."""
    torch.manual_seed(5)
    latent, features, rows = 3, 6, 40
    flow = MAF(transforms=2, hidden_features=(8,)).build(latent)
    disturb(flow, 0.3)
    decoder = MLP((8,)).build(torch.Size((latent,)), torch.Size((features,)))
    encoder, width = MLP((8,)).build(torch.Size((features,))), 8
    head = Gaussian().build(latent, width)
    spec = parse_likelihood("gaussian:1")
    likelihood = spec.build(torch.Size((features,)), spec.units(torch.randn(50, features)))
    left_model = VAE(flow, decoder, likelihood)
    left_guide = AmortizedGuide(encoder, head)
    right_model = VAE(StandardNormal().build(latent), _Composed(decoder, flow.transform), likelihood)
    right_guide = AmortizedGuide(encoder, _Warped(head, flow.transform))
    x = torch.randn(rows, features)

    def elbo(model: VAE, guide: AmortizedGuide) -> tuple[Tensor, list[Tensor]]:
        torch.manual_seed(9)
        guide_trace = poutine.trace(guide).get_trace(x)
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(x)
        guide_trace.compute_log_prob()
        model_trace.compute_log_prob()
        each = sum(site["log_prob"] for site in model_trace.nodes.values() if site["type"] == "sample")
        each = each - guide_trace.nodes["z"]["log_prob"]
        parameters = [*flow.parameters(), *decoder.parameters(), *encoder.parameters(), *head.parameters()]
        return each, list(torch.autograd.grad(each.sum(), parameters))

    left, left_gradients = elbo(left_model, left_guide)
    right, right_gradients = elbo(right_model, right_guide)
    assert left.shape == (rows,)
    torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-9)
    for one, other in zip(left_gradients, right_gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-7)
        assert one.abs().sum() > 0
    assert to_pyro(flow()).log_prob(torch.randn(2, latent)).shape == (2,)
