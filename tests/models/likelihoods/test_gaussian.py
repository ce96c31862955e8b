"""Scales of the Gaussian and of Student's t: decoded, optimal, learned."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Size, Tensor

from flowvae import Experiment
from flowvae.core.errors import FlowvaeError
from flowvae.data import Dataset
from flowvae.evaluation import measure_likelihoods
from flowvae.inference import Training
from flowvae.inference import fit as train_pair
from flowvae.models import GaussianLikelihood, Likelihood, StudentTLikelihood
from flowvae.networks import MLP

TRAIN = 3 + 2 * torch.randn(200, 4, generator=torch.Generator().manual_seed(0))


def built(spec: GaussianLikelihood | StudentTLikelihood, train: Tensor = TRAIN) -> Likelihood:
    return spec.build(train.shape[1:], spec.units(train))  # type: ignore[return-value]


def test_a_scale_for_each_value() -> None:
    likelihood = built(GaussianLikelihood("each"))
    h = torch.randn(5, 8)
    loc, scale = TRAIN.mean(0) + TRAIN.std(0) * h[:, :4], TRAIN.std(0) * h[:, 4:].exp()
    expected = torch.distributions.Normal(loc, scale).log_prob(TRAIN[:5]).sum(1)
    torch.testing.assert_close(likelihood(h).log_prob(TRAIN[:5]), expected)
    h = torch.full((1, 8), -100.0).requires_grad_()
    narrow = likelihood(h)
    torch.testing.assert_close(narrow.base_dist.scale, math.exp(-7) * TRAIN.std(0)[None])
    narrow.log_prob(TRAIN[:1]).sum().backward()
    assert h.grad is not None
    assert (h.grad[:, 4:] > 0).all()  # leads away from the bound


def test_constant_values_have_the_pooled_spread_where_each_has_a_scale() -> None:
    x = torch.cat((TRAIN, torch.zeros(200, 1)), 1)
    unit = GaussianLikelihood("each").units(x).unit
    torch.testing.assert_close(unit[:4], TRAIN.std(0))
    assert unit[4].item() == pytest.approx((TRAIN.var(0).sum() / 5).sqrt().item())
    for spec in (GaussianLikelihood(), StudentTLikelihood()):
        with pytest.raises(FlowvaeError, match=r"column 4.*constant \(0\).*gaussian:shared"):
            spec.units(x)
    with pytest.raises(FlowvaeError, match="constant"):
        GaussianLikelihood("each").units(torch.zeros(9, 2))
    with pytest.raises(FlowvaeError, match=r"one scale for all: gaussian:0\.1 fixes it"):
        GaussianLikelihood("shared").units(torch.zeros(9, 2))


def test_the_optimal_scale_of_a_batch_maximizes_its_likelihood() -> None:
    """Log-density and gradient are those at the maximum over σ, whose derivative is zero there."""
    likelihood = built(GaussianLikelihood("optimal"))
    h = (0.3 * torch.randn(50, 4)).requires_grad_()
    found = likelihood(h).log_prob(TRAIN[:50]).sum()
    error = TRAIN[:50] - likelihood.mean(h)
    closed = -0.5 * error.numel() * (error.square().mean().log() + 1 + math.log(2 * math.pi))
    torch.testing.assert_close(found, closed)
    one, other = (torch.autograd.grad(value, h, retain_graph=True)[0] for value in (found, closed))
    torch.testing.assert_close(one, other)


def test_the_optimal_scale_is_fixed_in_evaluation() -> None:
    """The density of a data point does not depend on the others, and integrates to one."""
    likelihood = built(GaussianLikelihood("optimal"))
    errors = []
    for _ in range(10):
        h = torch.randn(20, 4)
        x = likelihood.mean(h) + torch.randn(20, 4)
        errors.append((x - likelihood.mean(h)).square().mean())
        likelihood(h).log_prob(x)
    likelihood.eval()
    before = copy.deepcopy(likelihood.state_dict())
    h = torch.randn(20, 4)
    together = likelihood(h).log_prob(TRAIN[:20])
    alone = torch.cat([likelihood(h[i : i + 1]).log_prob(TRAIN[i : i + 1]) for i in range(20)])
    torch.testing.assert_close(together, alone)
    scale = torch.stack(errors).mean().sqrt()  # as many batches as the window has: their mean
    expected = torch.distributions.Normal(likelihood.mean(h), scale).log_prob(TRAIN[:20]).sum(1)
    torch.testing.assert_close(together, expected)
    assert all(torch.equal(value, before[name]) for name, value in likelihood.state_dict().items())


def test_the_optimal_scale_of_a_trained_vae_is_its_error() -> None:
    """The root of the mean squared error of reconstructions, over draws of codes, as it is at the end of a training."""
    x = torch.randn(600, 1, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, -1.0, 2.0])
    x = x + 0.2 * torch.randn(600, 3, generator=torch.Generator().manual_seed(1))
    data = Dataset(*x.split(200), "gaussian:optimal", "line", "none", "in order")  # type: ignore[arg-type]
    pair = Experiment(latent=1, encoder=MLP((8,)), decoder=MLP((8,))).build(data)
    train_pair(*pair, data.train, data.valid, Training(epochs=40, batch_size=40, learning_rate=1e-2))
    pair.model.eval()
    z = pair.guide(data.train)
    error = (data.train - pair.model.mean(z)).square().mean().sqrt().item()
    scale = pair.model.decode(z).base_dist.scale.mean().item()
    assert scale == pytest.approx(error, rel=0.15)
    assert measure_likelihoods(*pair, data.test, 50).elbo.mean() > -3.5  # −5.6 at the start


@pytest.mark.usefixtures("float64")
def test_student_t_agrees_with_scipy() -> None:
    train = TRAIN.double()
    likelihood = built(StudentTLikelihood(), train)
    with torch.no_grad():
        log_excess = torch.tensor([-50.0, 0.0, 2.0, 50.0])
        likelihood.raw_excess.copy_((log_excess - math.log(8)) / 10)
        likelihood.raw_scale.copy_(torch.tensor([-50.0, -1.0, 0.0, 2.0]) / 10)
    freedom, scale = [2.02, 3.0, 2 + math.exp(2), 100.0], [math.exp(-7), math.exp(-1), 1.0, math.exp(2)]
    h, x = torch.randn(4), train[0]
    loc = train.mean(0) + train.std(0) * h
    expected = sum(
        scipy.stats.t.logpdf(x[i], freedom[i], loc[i], scale[i] * train.std(0)[i].item()).item() for i in range(4)
    )
    assert likelihood(h).log_prob(x).item() == pytest.approx(expected, rel=1e-9)
    assert likelihood(torch.zeros(7, 4)).expand(Size((2, 7))).sample().shape == (2, 7, 4)


def test_student_t_learns_heavy_tails_in_the_steps_of_a_short_training() -> None:
    """The standard deviation of a Cauchy sample, the unit, is 100 times its scale; ν is 2.02 at least."""
    x = torch.from_numpy(np.random.default_rng(0).standard_cauchy((500, 1))).float()
    likelihood = built(StudentTLikelihood(), x)
    h = torch.zeros(1, requires_grad=True)
    optim = torch.optim.Adam([h, *likelihood.parameters()], 1e-3)
    for _ in range(1000):
        optim.zero_grad()
        (-likelihood(h).log_prob(x).mean()).backward()
        optim.step()
    exact = x.squeeze().double().numpy()
    best = max(scipy.stats.t.logpdf(exact, 2.02, 0, scale).mean() for scale in np.geomspace(0.1, 10, 200))
    assert likelihood(h).log_prob(x).mean().item() > best - 0.02


def test_wrong_scales() -> None:
    for wrong in ("wide", "", -1.0, 0.0, True):
        with pytest.raises(FlowvaeError, match=r"GaussianLikelihood\.scale = "):
            GaussianLikelihood(wrong)
