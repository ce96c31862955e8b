"""The importance-weighted bound against its integral, the evidence, and its gradient by hand."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from objective_cases import VECTORIZED, case, divergence, gradients, log_weights, loss_and_gradients, seeded_noise
from pyro import poutine
from torch import Tensor

from flowvae import FlowvaeError
from flowvae.inference import IWAETraceELBO, weigh_latent

pytestmark = pytest.mark.usefixtures("float64")


def test_two_draws_give_the_integral_over_both() -> None:
    """Of log ½ (w(z₁) + w(z₂)) over q(z₁) q(z₂), by Gauss–Hermite quadrature of one latent number each."""
    model, guide, x = case(10_000, latent=1, shift=0.4, factor=1.5)
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    noise = torch.as_tensor(nodes).reshape(-1, 1, 1)
    with torch.no_grad():
        log_w = log_weights(model, guide, x, noise)[:, 0]
    pairs = torch.logaddexp(log_w[:, None], log_w) - math.log(2)
    mass = torch.as_tensor(weights) / math.sqrt(2 * math.pi)
    expected = float(mass @ pairs @ mass)
    noise = seeded_noise(2, x, 1)
    with torch.no_grad():
        draws = log_weights(model, guide, x, noise).logsumexp(0) - math.log(2)
    error = float(draws.std()) / len(x) ** 0.5
    torch.manual_seed(5)
    found = -IWAETraceELBO(num_particles=2, **VECTORIZED).loss(model, guide, x) / len(x)
    assert found == pytest.approx(float(draws.mean()), abs=1e-9)
    assert abs(found - expected) < 4 * error < 0.03
    evidence = model.log_evidence(x[0]).item()
    assert evidence - divergence(guide.posterior(), model.posterior(x)) + 0.05 < expected < evidence - 0.05


def test_one_draw_is_the_elbo_and_many_are_the_evidence() -> None:
    model, guide, x = case(4000)
    evidence = model.log_evidence(x[0]).item()
    elbo = evidence - divergence(guide.posterior(), model.posterior(x))
    bounds = [-IWAETraceELBO(num_particles=k, **VECTORIZED).loss(model, guide, x) / len(x) for k in (1, 4, 16, 64)]
    assert bounds[0] == pytest.approx(elbo, abs=0.05)
    assert bounds == sorted(bounds)
    assert bounds[-1] == pytest.approx(evidence, abs=0.02)


@pytest.mark.parametrize("vectorize", [True, False])
def test_the_exact_guide_has_the_evidence_in_every_draw(vectorize: bool) -> None:
    model, _, x = case(3)

    def exact(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", model.posterior(x))

    elbo = IWAETraceELBO(num_particles=3, vectorize_particles=vectorize, max_plate_nesting=1)
    assert -elbo.loss(model, exact, x) == pytest.approx(model.log_evidence(x).sum().item())


@pytest.mark.parametrize("compile", ["none", "capture"])
def test_its_gradient_is_that_of_the_formula(compile: str) -> None:  # noqa: A002
    model, guide, x = case(3)
    elbo = IWAETraceELBO(num_particles=4, compile=compile, **VECTORIZED)
    for _ in range(3):
        loss, found = loss_and_gradients(elbo, model, guide, x)
        hand = -(log_weights(model, guide, x, seeded_noise(4, x)).logsumexp(0) - math.log(4)).sum()
        assert loss == pytest.approx(hand.item())
        torch.testing.assert_close(found, gradients(hand, model, guide))
        torch.manual_seed(5)
        torch.testing.assert_close(elbo.differentiable_loss(model, guide, x), hand)


def test_weights_are_compared_within_a_data_point_unless_a_site_is_outside_of_the_plate() -> None:
    """With a global latent variable the weight is that of all data together."""
    x = torch.tensor([0.5, -1.0, 2.0])
    terms: dict[str, Tensor] = {}

    def model(x: Tensor, shared: bool) -> None:
        g = pyro.sample("g", dist.Normal(0.0, 1.0)) if shared else torch.zeros(())
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(g, 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    def guide(x: Tensor, shared: bool) -> None:
        if shared:
            terms["g"] = pyro.sample("g", dist.Normal(0.1, 0.9))
        with pyro.plate("data", len(x)):
            terms["z"] = pyro.sample("z", dist.Normal(0.5 * x, 0.7))

    def normal(value: Tensor, mean: Tensor | float, scale: float) -> Tensor:
        return torch.distributions.Normal(mean, scale).log_prob(value)

    elbo = IWAETraceELBO(num_particles=5, **VECTORIZED)
    loss = elbo.loss(model, guide, x, False)
    z = terms["z"]
    local = normal(z, 0.0, 1.0) + normal(x, z, 0.5) - normal(z, 0.5 * x, 0.7)
    assert local.shape == (5, 3)
    assert -loss == pytest.approx(float((local.logsumexp(0) - math.log(5)).sum()))
    loss = elbo.loss(model, guide, x, True)
    z, g = terms["z"], terms["g"]
    whole = (normal(z, g, 1.0) + normal(x, z, 0.5) - normal(z, 0.5 * x, 0.7)).sum(-1)
    whole = whole + (normal(g, 0.0, 1.0) - normal(g, 0.1, 0.9)).squeeze(-1)
    assert -loss == pytest.approx(float(whole.logsumexp(0) - math.log(5)))


def plate_model(x: Tensor, shared: bool = False) -> None:
    if shared:
        pyro.sample("g", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x), subsample_size=4) as index:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 0.5), obs=x[index])


def plate_guide(x: Tensor, shared: bool = False) -> None:
    if shared:
        pyro.sample("g", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x), subsample_size=4) as index:
        pyro.sample("z", dist.Normal(0.8 * x[index], 0.5))


def test_a_subsampled_plate_is_scaled_outside_of_the_logarithm() -> None:
    """The mean over many subsamples is the bound of all data; the weights of a subsample have no power of N / n."""
    x = torch.linspace(-1, 1, 40)
    torch.manual_seed(0)
    sub = [IWAETraceELBO(num_particles=3, **VECTORIZED).loss(plate_model, plate_guide, x) for _ in range(200)]
    whole = IWAETraceELBO(num_particles=3, **VECTORIZED)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.8 * x, 0.5))

    expected = [whole.loss(model, guide, x) for _ in range(200)]
    error = (torch.tensor(sub).std() ** 2 / 200 + torch.tensor(expected).std() ** 2 / 200) ** 0.5
    assert abs(sum(sub) - sum(expected)) / 200 < 4 * float(error) < 1.0
    with pytest.raises(FlowvaeError, match=r"'data'.* 4 of 40"):
        whole.loss(plate_model, plate_guide, x, True)


@pytest.mark.parametrize("scale", [0.1, torch.tensor([1.0, 0.5, 2.0])])
def test_a_common_scale_weights_data_points_and_a_mask_leaves_them_out(scale: float | Tensor) -> None:
    model, guide, x = case(3)
    elbo = IWAETraceELBO(num_particles=4, **VECTORIZED)
    each = -(log_weights(model, guide, x, seeded_noise(4, x)).logsumexp(0) - math.log(4))
    torch.manual_seed(5)
    loss = elbo.loss(poutine.scale(model, scale), poutine.scale(guide, scale), x)
    assert loss == pytest.approx((scale * each).sum().item())
    mask = torch.tensor([True, False, True])
    torch.manual_seed(5)
    loss = elbo.loss(poutine.mask(model, mask), poutine.mask(guide, mask), x)
    assert loss == pytest.approx(each[mask].sum().item())


def test_a_scale_of_latent_sites_weights_their_terms_inside_of_the_logarithm() -> None:
    """As in a KL warm-up, with a common scale around it."""
    model, guide, x = case(3)
    noise = seeded_noise(4, x)
    log_w = log_weights(model, guide, x, noise)
    z = guide.loc + guide.log_scale.exp() * noise
    likelihood = model.decode(z).log_prob(x)
    hand = -((likelihood + 0.3 * (log_w - likelihood)).logsumexp(0) - math.log(4)).sum() / 3
    elbo = IWAETraceELBO(num_particles=4, **VECTORIZED)
    weighted = [poutine.scale(weigh_latent(part, lambda: 0.3), 1 / 3) for part in (model, guide)]
    torch.manual_seed(5)
    assert elbo.loss(*weighted, x) == pytest.approx(hand.item())


def test_scales_that_are_no_weights_are_refused() -> None:
    model, guide, x = case(3)
    elbo = IWAETraceELBO(num_particles=4, **VECTORIZED)
    with pytest.raises(FlowvaeError, match=r"0\.5.*'z'"):
        elbo.loss(poutine.scale(model, 0.5), guide, x)


def test_a_discrete_latent_variable_is_refused() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(0.3))

    with pytest.raises(FlowvaeError, match=r"'z'.*RenyiELBO"):
        IWAETraceELBO().loss_and_grads(model, guide, torch.zeros(2))
