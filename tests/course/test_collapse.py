"""The exercises of notebook 11 accept what is right and recognize common slips."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from flowvae.course.collapse import EIGENVALUES, dead_or_alive, in_use, penalty, unit_kl
from flowvae.course.exercise import Exercise
from flowvae.models import LinearGaussian


@pytest.mark.parametrize("task", [in_use, dead_or_alive, penalty], ids=lambda task: task.name)
def test_the_solution_is_accepted_and_nothing_is_open(task: Exercise) -> None:
    assert task.check(task.solved())
    assert task.check(lambda *_: None).kind == "open"


@pytest.mark.parametrize(
    ("task", "slip", "reason"),
    [
        (in_use, lambda loc, scale: loc.var(0) + scale.square().mean(0), "aggregated"),
        (in_use, lambda loc, scale: loc.square().mean(0), "subtracts the mean"),
        (in_use, lambda loc, scale: loc.std(0), "standard deviation"),
        (in_use, lambda loc, scale: 1 - scale.square().mean(0), "only if"),
        (in_use, lambda loc, scale: scale.square().mean(0), "posterior variance"),
        (in_use, lambda loc, scale: loc.var(1), "(400,)"),
        (dead_or_alive, lambda e, noise, beta: 0.5 * (e / noise / beta).log(), "never negative"),
        (dead_or_alive, lambda e, noise, beta: (e / noise / beta).log().clamp_min(0), "½"),
        (dead_or_alive, lambda e, noise, beta: 0.5 * (e / noise).log().clamp_min(0), "missing: divided"),
        (dead_or_alive, lambda e, noise, beta: 0.5 * (beta * e / noise).log().clamp_min(0), "wrong side"),
        (dead_or_alive, lambda e, noise, beta: 0.5 * (e / noise).log(), "β is missing"),
        (dead_or_alive, lambda e, noise, beta: beta * unit_kl(e, noise, beta), "term of the loss"),
        (dead_or_alive, lambda e, noise, beta: unit_kl(e, noise, beta).neg(), "the sign"),
        (dead_or_alive, lambda e, noise, beta: torch.where(e > noise, (e / noise / beta).log() / 2, 0.0), "threshold"),
        (dead_or_alive, lambda e, noise, beta: 0.5 * (e / noise / beta).log2().clamp_min(0), "bits"),
        (penalty, lambda kl, floor: kl.clamp_min(floor).sum(1).mean(), "mean over the batch first"),
        (penalty, lambda kl, floor: kl.sum(1).mean().clamp_min(floor), "floor of the sum"),
        (penalty, lambda kl, floor: kl.sum(1).mean(), "plain"),
        (penalty, lambda kl, floor: kl.mean(0).clamp_max(floor).sum(), "caps"),
        (penalty, lambda kl, floor: (kl.mean(0) - floor).clamp_min(0).sum(), "above the floor only"),
        (penalty, lambda kl, floor: kl.mean(0).clamp_min(floor).mean(), "sum over"),
    ],
)
def test_slips_are_named(task: Exercise, slip: Any, reason: str) -> None:
    outcome = task.check(slip)
    assert outcome.kind == "wrong"
    assert reason in outcome.text


@pytest.mark.parametrize("beta", [1.0, 1.5])
def test_the_kl_of_a_unit_is_that_of_the_exact_model(beta: float) -> None:
    # an independent way: the mean KL of the exact posteriors of principal components with noise variance βσ²
    noise = 0.5
    weight = torch.diag((EIGENVALUES - beta * noise).clamp_min(0).sqrt())
    model = LinearGaussian(weight, torch.zeros(6, dtype=torch.float64), (beta * noise) ** 0.5).requires_grad_(False)
    alive = beta * noise < EIGENVALUES
    # data whose second moments are exactly the eigenvalues: ± each component alone, scaled by √6
    x = torch.cat([torch.diag((6 * EIGENVALUES).sqrt()), -torch.diag((6 * EIGENVALUES).sqrt())])
    zeros, identity = torch.zeros(6, dtype=torch.float64), torch.eye(6, dtype=torch.float64)
    kl = kl_divergence(model.posterior(x), MultivariateNormal(zeros, identity)).mean()
    assert torch.isclose(unit_kl(EIGENVALUES, noise, beta).sum(), kl)
    assert torch.equal(unit_kl(EIGENVALUES, noise, beta) > 0, alive)
