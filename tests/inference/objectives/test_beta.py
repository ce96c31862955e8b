"""A weighted KL term against its formula, in plain Pyro and in a training."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from objective_cases import VECTORIZED, case, gradients, loss_and_gradients, seeded_noise
from torch.distributions import Normal
from training_cases import FAST, equal, pair, values, weights

from flowvae import FlowvaeError
from flowvae.inference import Beta, BetaTraceELBO, fit


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("compile", ["none", "capture"])
def test_the_kl_term_is_weighted(compile: str) -> None:  # noqa: A002
    model, guide, x = case(4)
    q = Normal(guide.loc, guide.log_scale.exp())
    z = q.mean + q.stddev * seeded_noise(3, x)
    kl = (q.log_prob(z) - Normal(0.0, 1.0).log_prob(z)).sum(-1)
    reconstruction = Normal(z @ model.weight.T + model.center, model.log_scale.exp()).log_prob(x).sum(-1)
    hand = (0.3 * kl - reconstruction).mean(0).sum()
    expected = gradients(hand, model, guide)
    elbo = BetaTraceELBO(beta=0.3, num_particles=3, compile=compile, **VECTORIZED)
    for _ in range(3):
        loss, found = loss_and_gradients(elbo, model, guide, x)
        assert loss == pytest.approx(hand.item())
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("warmup", [0, 2])
def test_a_training_is_that_of_the_setting_kl_weight(warmup: int) -> None:
    found = []
    for settings in ({"kl_weight": 0.25}, {"objective": Beta(0.25)}):
        parts = pair(3)
        how = replace(FAST, kl_warmup=warmup, **settings)
        fitted = fit(parts["model"], parts["guide"], values(40, 3), values(20, 3, seed=1), how, progress=False)
        found.append((fitted.history["valid_elbo"].tolist(), weights(parts)))
    assert found[0][0] == pytest.approx(found[1][0])
    if not warmup:
        assert equal(found[0][1], found[1][1])


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan")])
def test_other_weights_are_refused(weight: float) -> None:
    with pytest.raises(FlowvaeError, match=rf"weight = {weight}"):
        Beta(weight)
    with pytest.raises(FlowvaeError, match=rf"beta = {weight}"):
        BetaTraceELBO(beta=weight)
    with pytest.raises(FlowvaeError, match=r"kl_weight = 0\.5.*Beta"):
        replace(FAST, kl_weight=0.5, objective=Beta(0.5))
