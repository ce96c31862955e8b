"""Doubly reparametrized gradients against their formula, and in expectation against those of the IWAE."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from objective_cases import VECTORIZED, case, gradients, log_weights, loss_and_gradients, mean_and_error, seeded_noise
from pyro.infer.autoguide import AutoNormal
from torch import Tensor, nn

from flowvae import FlowvaeError
from flowvae.inference import DReGTraceELBO, IWAETraceELBO, PathTraceELBO, weigh_latent
from flowvae.networks import declare_parameters

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("compile", ["none", "capture"])
def test_the_gradient_is_that_of_the_formula(compile: str) -> None:  # noqa: A002
    model, guide, x = case(3)
    elbo = DReGTraceELBO(num_particles=4, compile=compile, **VECTORIZED)
    for _ in range(3):
        loss, found = loss_and_gradients(elbo, model, guide, x)
        noise = seeded_noise(4, x)
        log_w = log_weights(model, guide, x, noise)
        shares = log_w.softmax(0).detach()
        of_model = gradients(-log_w.logsumexp(0).sum(), model)
        of_guide = gradients(-(shares**2 * log_weights(model, guide, x, noise, fixed=True)).sum(), guide)
        assert loss == pytest.approx(-(log_w.logsumexp(0) - math.log(4)).sum().item())
        torch.testing.assert_close(found, torch.cat([of_model, of_guide]))


def test_particles_in_turn_and_together_are_the_same_estimator() -> None:
    model, guide, x = case(3)
    elbo = DReGTraceELBO(num_particles=4, max_plate_nesting=1)
    _, found = loss_and_gradients(elbo, model, guide, x)
    torch.manual_seed(5)
    noise = torch.stack([torch.randn(3, 2) for _ in range(4)])
    log_w = log_weights(model, guide, x, noise, fixed=True)
    of_guide = gradients(-(log_w.softmax(0).detach() ** 2 * log_w).sum(), guide)
    torch.testing.assert_close(found[-len(of_guide) :], of_guide)


def test_one_draw_sticks_the_landing() -> None:
    model, guide, x = case(3)
    ours = loss_and_gradients(DReGTraceELBO(num_particles=1, max_plate_nesting=1), model, guide, x)
    path = loss_and_gradients(PathTraceELBO(max_plate_nesting=1), model, guide, x)
    assert ours[0] == pytest.approx(path[0])
    torch.testing.assert_close(ours[1], path[1])


def test_it_is_the_iwaes_gradient_in_expectation_with_less_noise() -> None:
    model, guide, x = case(20_000)
    parameters = guide.loc.numel()
    samples = {}
    for seed, make in enumerate((IWAETraceELBO, DReGTraceELBO)):
        _, found = loss_and_gradients(make(num_particles=8, **VECTORIZED), model, guide, x, seed=seed)
        samples[make] = found[-2 * parameters :].reshape(2, len(x), 2)
    for part in range(2):
        for dimension in range(2):
            values = [samples[make][part, :, dimension] for make in (IWAETraceELBO, DReGTraceELBO)]
            (one, error), (other, noise) = map(mean_and_error, values)
            assert abs(one - other) < 4 * math.hypot(error, noise)
            assert abs(other) > 5 * noise  # the gradient is not lost in the noise
            assert noise < 0.6 * error


class Levels(nn.Module):
    """A guide of two sites, z then z2 given z, with parameters for every data point."""

    def __init__(self, size: int) -> None:
        super().__init__()
        for name, value in (("loc", 0.5), ("scale", 0.6), ("slope", 0.4), ("shift", 0.3), ("above", 0.8)):
            setattr(self, name, nn.Parameter(torch.full((size,), value)))

    def forward(self, x: Tensor) -> None:
        declare_parameters("guide", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.loc, self.scale))
            pyro.sample("z2", dist.Normal(self.slope * z + self.shift, self.above))


def levels(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z2 = pyro.sample("z2", dist.Normal(0.0, 1.0))
        z = pyro.sample("z", dist.Normal(0.7 * z2, 0.6))
        pyro.sample("x", dist.Normal(z, 0.5), obs=x)


@pytest.mark.parametrize("draws", [1, 5])
def test_a_guide_of_two_levels_has_the_iwaes_gradient_in_expectation(draws: int) -> None:
    size = 40_000
    guide, x = Levels(size), torch.full((size,), 0.9)
    means: list[list[tuple[float, float]]] = []
    for seed, make in enumerate((IWAETraceELBO, DReGTraceELBO)):
        torch.manual_seed(seed)
        guide.zero_grad()
        make(num_particles=draws, **VECTORIZED).loss_and_grads(levels, guide, x)
        means.append([mean_and_error(parameter.grad) for parameter in guide.parameters() if parameter.grad is not None])
    assert len(means[0]) == 5
    for (one, error), (other, noise) in zip(*means, strict=True):
        assert abs(one - other) < 4 * math.hypot(error, noise)


def test_a_frozen_guide_leaves_the_gradients_of_the_model() -> None:
    model, guide, x = case(3)
    guide.requires_grad_(False)
    elbo: Any = DReGTraceELBO(num_particles=4, **VECTORIZED)
    torch.manual_seed(5)
    elbo.loss_and_grads(model, guide, x)
    found = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    hand = gradients(-log_weights(model, guide, x, seeded_noise(4, x)).logsumexp(0).sum(), model)
    torch.testing.assert_close(found, hand)


def test_a_weighted_kl_term_is_refused() -> None:
    model, guide, x = case(3)
    weighted = [weigh_latent(part, lambda: 0.5) for part in (model, guide)]
    assert IWAETraceELBO(max_plate_nesting=1).loss(*weighted, x) > 0
    with pytest.raises(FlowvaeError, match=r"0\.5.*'z'"):
        DReGTraceELBO(max_plate_nesting=1).loss(*weighted, x)


def test_an_autoguide_with_a_transform_has_the_iwaes_gradient_in_expectation() -> None:
    """Its sites are an auxiliary one on the real line and a point of the transformed value."""
    x = torch.full((20_000,), 1.5)

    def model() -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Gamma(2.0, 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    guide = AutoNormal(model, init_scale=0.35)
    guide()
    means = []
    for seed, make in enumerate((IWAETraceELBO, DReGTraceELBO)):
        torch.manual_seed(seed)
        guide.zero_grad()
        make(num_particles=5, **VECTORIZED).loss_and_grads(model, guide)
        means.append([mean_and_error(p.grad) for p in guide.parameters() if p.grad is not None])
    assert len(means[0]) == 2
    for (one, error), (other, noise) in zip(*means, strict=True):
        assert abs(one - other) < 4 * math.hypot(error, noise) < abs(one)
    pyro.clear_param_store()


def test_a_discrete_latent_variable_is_refused() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(0.3))

    with pytest.raises(FlowvaeError, match=r"'z'.*RenyiELBO"):
        DReGTraceELBO().loss_and_grads(model, guide, torch.zeros(2))
