"""The variational Rényi bound against the divergence between Gaussians, the ELBO and the IWAE's bound."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from objective_cases import VECTORIZED, case, log_weights, seeded_noise
from pyro.infer import RenyiELBO, Trace_ELBO

from flowvae import FlowvaeError
from flowvae.inference import IWAETraceELBO, Renyi, RenyiTraceELBO

pytestmark = pytest.mark.usefixtures("float64")

ORDERS = (0.0, 0.2, 0.5, 0.9, 1.0)


def loss(elbo: Any, *args: Any) -> float:
    torch.manual_seed(5)
    return elbo.loss(*args)


def test_it_falls_with_the_order_from_the_iwae_to_the_elbo() -> None:
    args = case(5, shift=0.5)
    bounds = [-loss(RenyiTraceELBO(alpha=alpha, num_particles=6, **VECTORIZED), *args) for alpha in ORDERS]
    assert all(one > other + 1e-3 for one, other in pairwise(bounds))
    assert -bounds[0] == pytest.approx(loss(IWAETraceELBO(num_particles=6, **VECTORIZED), *args))
    assert -bounds[-1] == pytest.approx(loss(Trace_ELBO(num_particles=6, **VECTORIZED), *args))
    near = loss(RenyiTraceELBO(alpha=1 - 1e-6, num_particles=6, **VECTORIZED), *args)
    assert near == pytest.approx(-bounds[-1], abs=1e-4)
    model, guide, x = args
    log_w = log_weights(model, guide, x, seeded_noise(6, x))
    hand = ((0.8 * log_w).exp().mean(0).log() / 0.8).sum()
    assert bounds[1] == pytest.approx(hand.item())
    assert -bounds[2] == pytest.approx(loss(RenyiELBO(alpha=0.5, num_particles=6, **VECTORIZED), *args))


@pytest.mark.parametrize("alpha", [0.3, 0.7])
def test_many_draws_give_the_divergence_between_gaussians(alpha: float) -> None:
    """L_α = log p(x) − D_α(q ‖ p(z | x)), with D_α between Gaussians of one number as in Gil et al. (2013)."""
    model, guide, x = case(60, latent=1, shift=0.3, factor=1.3)
    exact, variance = model.mean_field(x[:1]), guide.log_scale[0].exp().item() ** 2
    target = exact.variance[0].item()
    mixed = alpha * target + (1 - alpha) * variance
    distance = (guide.loc[0] - exact.mean[0]).item()
    divergence = 0.5 * math.log(target / variance) + math.log(target / mixed) / (2 * (alpha - 1))
    divergence += alpha * distance**2 / (2 * mixed)
    bound = model.log_evidence(x[0]).item() - divergence
    draws = 5000
    with torch.no_grad():
        scaled = (1 - alpha) * log_weights(model, guide, x, seeded_noise(draws, x, 1))
    error = (
        float((scaled - scaled.logsumexp(0) + math.log(draws)).exp().std(0).mean())
        / (draws * len(x)) ** 0.5
        / (1 - alpha)
    )
    found = -loss(RenyiTraceELBO(alpha=alpha, num_particles=draws, **VECTORIZED), model, guide, x) / len(x)
    assert divergence > 0.02
    assert abs(found - bound) < 4 * error + 1e-4 < 0.01


@pytest.mark.parametrize("alpha", [-0.5, 1.5, math.nan, "half", True])
def test_other_orders_are_refused(alpha: Any) -> None:
    for make in (RenyiTraceELBO, Renyi):
        with pytest.raises(FlowvaeError, match=rf"alpha = '?{alpha}"):
            make(alpha=alpha)
