"""The self-supervised VAE: sums over all images, an integral on a grid, and the ELBO term by term."""

from __future__ import annotations

import sys
from pathlib import Path

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import Size, Tensor, nn
from torch.distributions import Bernoulli, Normal
from zuko.lazy import LazyDistribution

from flowvae import Digits, FlowvaeError, LatentVariablePrior, StandardNormal, Training
from flowvae.core.parts import Units
from flowvae.evaluation import measure_likelihoods
from flowvae.guides import AmortizedGuide, Gaussian, SelfSupervisedGuide
from flowvae.inference import fit
from flowvae.models import VAE, BernoulliLikelihood, Downscale, GaussianLikelihood, SelfSupervisedVAE
from flowvae.networks import MLP

BITS = Units(torch.zeros(()), torch.ones(()))
X, Y = Size((1, 2, 2)), Size((1, 1, 1))


def pair() -> tuple[SelfSupervisedVAE, SelfSupervisedGuide]:
    """Images of four bits, y their majority, u and z numbers."""
    torch.manual_seed(0)
    network, bits, halved = MLP((8,)), BernoulliLikelihood(), Downscale(2)
    upper = VAE(StandardNormal().build(1), network.build(Size((1,)), Y), bits.build(Y, BITS))
    prior = _Line()
    decoder = network.build(Size((1,)), X, context=1)
    model = SelfSupervisedVAE(upper, prior, decoder, bits.build(X, BITS), halved)
    guides = [AmortizedGuide(network.build(shape), Gaussian().build(1, 8)) for shape in (Y, X)]
    return model, SelfSupervisedGuide(*guides, halved)


class _Line(LazyDistribution):
    """N(y + u / 2, 1)."""

    def forward(self, c: Tensor | None = None) -> torch.distributions.Distribution:
        assert c is not None
        return torch.distributions.Independent(Normal(c[..., :1] + c[..., 1:] / 2, torch.ones(())), 1)


def every_image() -> Tensor:
    return torch.cartesian_prod(*[torch.arange(2.0)] * 4).reshape(16, *X)


@pytest.mark.usefixtures("float64")
def test_the_evidence_is_the_integral_over_both_codes() -> None:
    model, guide = pair()
    model, guide = model.double(), guide.double()
    side = torch.linspace(-8, 8, 241)
    cell = (side[1] - side[0]) ** 2
    u, z = (part.reshape(-1, 1) for part in torch.meshgrid(side, side, indexing="ij"))
    expected, total = [], 0.0
    for x in every_image():
        y = model.downscale(x)
        joint = Normal(0.0, 1.0).log_prob(u).squeeze(1) + model.upper.decode(u).log_prob(y)
        joint = joint + Normal(y.item() + u / 2, 1.0).log_prob(z).squeeze(1)
        logits = model.decoder(z, y.reshape(1, 1).expand(len(z), 1))
        joint = joint + Bernoulli(logits=logits).log_prob(x).sum((-1, -2, -3))
        expected.append((joint.exp().sum() * cell).log())
        total += joint.exp().sum().item() * cell.item()
    found = measure_likelihoods(model, guide, every_image(), draws=20_000)
    error = (1 / found.effective_draws - 1 / 20_000).clamp_min(0).sqrt()
    assert ((found.log_evidence - torch.stack(expected)).abs() < 5 * error + 1e-3).all()
    assert error.max() < 0.05
    assert 0 < total < 1  # log p(x, d(x)) is a bound of log p(x): images that do not fit their y have the rest


@pytest.mark.usefixtures("float64")
def test_all_images_with_all_small_versions_have_probability_one() -> None:
    model, _ = pair()
    torch.manual_seed(1)
    u, z = torch.randn(50, 1), torch.randn(50, 1)
    total = torch.zeros(50)
    for y in (0.0, 1.0):
        small = torch.full(Y, y)
        logits = model.decoder(z, small.reshape(1, 1).expand(50, 1))
        for x in every_image():
            each = model.upper.decode(u).log_prob(small) + Bernoulli(logits=logits).log_prob(x).sum((-1, -2, -3))
            total += each.exp()
    torch.testing.assert_close(total, torch.ones(50))


@pytest.mark.usefixtures("float64")
def test_the_elbo_is_the_sum_of_its_terms() -> None:
    model, guide = pair()
    x = every_image()[:5]
    pyro.set_rng_seed(3)
    loss = Trace_ELBO().loss(model, guide, x)
    pyro.set_rng_seed(3)
    drawn = poutine.trace(guide).get_trace(x)
    u, z = drawn.nodes["u"]["value"], drawn.nodes["z"]["value"]
    y = model.downscale(x)
    terms = [
        Bernoulli(logits=model.decoder(z, y.flatten(1))).log_prob(x).sum((1, 2, 3)),
        Normal(y.flatten(1) + u / 2, 1.0).log_prob(z).squeeze(1),
        model.upper.decode(u).log_prob(y),
        Normal(0.0, 1.0).log_prob(u).squeeze(1),
        -guide.upper.posterior(y).log_prob(u),
        -guide.lower.posterior(x).log_prob(z),
    ]
    assert -loss == pytest.approx(torch.stack(terms).sum().item())


class _Without(nn.Module):
    """A decoder that does not read y."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return self.network(z)  # type: ignore[no-any-return]


class _Standard(LazyDistribution):
    def forward(self, c: Tensor | None = None) -> torch.distributions.Distribution:
        assert c is not None
        return torch.distributions.Independent(Normal(torch.zeros_like(c[..., :1]), 1.0), 1)


@pytest.mark.usefixtures("float64")
def test_without_the_way_from_y_it_is_the_plain_vae_and_a_vae_of_y() -> None:
    model, guide = pair()
    network = MLP((8,)).build(Size((1,)), X)
    apart = SelfSupervisedVAE(model.upper, _Standard(), _Without(network), model.likelihood, model.downscale)
    plain = VAE(StandardNormal().build(1), network, model.likelihood)
    x = every_image()
    together, one, other = (
        Trace_ELBO(num_particles=4000, vectorize_particles=True, max_plate_nesting=1).loss(*each)
        for each in (
            (apart, guide, x),
            (plain, guide.lower, x),
            (_renamed(model.upper), guide.upper, model.downscale(x)),
        )
    )
    assert together == pytest.approx(one + other, abs=0.6)  # sums over 16 images


def _renamed(upper: VAE) -> VAE:
    return VAE(upper.prior, upper.decoder, upper.likelihood)


def test_the_small_version_is_the_rounded_mean_of_a_block() -> None:
    x = torch.tensor([[0.0, 1, 3, 4], [1, 0, 4, 4], [0, 0, 16, 16], [0, 1, 16, 15]])[None]
    assert Downscale(2)(x).tolist() == [[[1, 4], [0, 16]]]
    assert Downscale(2)(x.expand(2, 3, 1, 4, 4)).shape == (2, 3, 1, 2, 2)
    for shape in ((1, 3, 4), (16,)):
        with pytest.raises(FlowvaeError, match=str(shape[-1])):
            Downscale(2)(torch.zeros(shape))
    with pytest.raises(FlowvaeError, match="1"):
        Downscale(1)


def test_a_prior_of_the_top_with_latent_variables_is_refused() -> None:
    model, _ = pair()
    upper = VAE(LatentVariablePrior(latent=2).build(1), model.upper.decoder, model.upper.likelihood)
    with pytest.raises(FlowvaeError, match="upper"):
        SelfSupervisedVAE(upper, _Line(), model.decoder, model.likelihood, model.downscale)


def test_data_of_another_shape_are_refused() -> None:
    model, guide = pair()
    for shape in ((3, 2, 2, 2), (3, 1, 4, 4)):
        for part in (model, guide):
            with pytest.raises(FlowvaeError, match=r"must be \(N, 1, "):
                part(torch.zeros(shape))


def test_a_density_of_the_small_version_is_refused() -> None:
    model, _ = pair()
    decoder = MLP((8,)).build(Size((1,)), Y)
    upper = VAE(StandardNormal().build(1), decoder, GaussianLikelihood().build(Y, BITS))
    dense = SelfSupervisedVAE(upper, _Line(), model.decoder, model.likelihood, model.downscale)
    for how in ({"x": every_image()}, {"size": 2}):
        with pytest.raises(FlowvaeError, match="discrete"):
            dense(**how)


def test_the_example_learns_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "docs" / "examples"))
    sys.modules.pop("self_supervised", None)
    import self_supervised  # type: ignore[import-not-found]

    torch.manual_seed(0)
    data = Digits().load(seed=0)
    model, guide = self_supervised.pair(data, hidden=(32,))
    settings = Training(epochs=4, batch_size=128, device="cpu")
    history = fit(model, guide, data.train, data.valid, settings, progress=False).history
    assert history["valid_elbo"].iloc[-1] > history["valid_elbo"].iloc[0]
    drawn = model(size=5)
    assert drawn.shape == (5, 1, 8, 8)
    assert measure_likelihoods(model, guide, data.test[:20], draws=20).log_evidence.isfinite().all()
