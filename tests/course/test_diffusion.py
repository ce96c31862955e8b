"""The exercises of notebook 17 agree with independent computations and recognize common slips."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from flowvae.course.diffusion import best_variance, noise_weights, reverse, reverse_step, smallest_kl, weight
from flowvae.course.exercise import Exercise


def kept(beta: torch.Tensor) -> torch.Tensor:
    return (1 - beta).cumprod(0)


def previous(beta: torch.Tensor) -> torch.Tensor:
    return torch.cat((torch.ones(1, dtype=beta.dtype), kept(beta)[:-1]))


def tilde(beta: torch.Tensor) -> torch.Tensor:
    return beta * (1 - previous(beta)) / (1 - kept(beta))


@pytest.mark.parametrize(
    ("task", "slip", "reason"),
    [
        (reverse, lambda z, v, beta: reverse_step(z, v, beta)[0], "two things"),
        (reverse, lambda z, v, beta: (reverse_step(z, v, beta)[0], reverse_step(z, v, beta)[1].sqrt()), "deviation"),
        (reverse, lambda z, v, beta: ((1 - beta).sqrt() * z, beta), "forward step"),
        (reverse, lambda z, v, beta: (z / (1 - beta).sqrt(), beta), "ignores the prior"),
        (reverse, lambda z, v, beta: (reverse_step(z, v, beta)[0], beta), "tiny"),
        (reverse, lambda z, v, beta: ((1 - beta).sqrt() * reverse_step(z, v, beta)[0], 1 / v), "covariance"),
        (reverse, lambda z, v, beta: (z, v), "v = 1"),
        (weight, lambda beta: 2 * noise_weights(beta), "½"),
        (weight, lambda beta: beta * noise_weights(beta), "cancels"),
        (weight, lambda beta: noise_weights(beta) * beta / tilde(beta), "β̃"),
        (weight, lambda beta: 0.5 / (1 - beta), "1 − β_t alone"),
        (weight, lambda beta: (1 - beta) * noise_weights(beta), "missing"),
        (weight, lambda beta: beta / (2 * (1 - beta) * (1 - previous(beta))), "z_{t−1}"),
        (weight, lambda beta: noise_weights(beta).sum(), "shape"),
        (weight, lambda beta: beta, "(4)"),
        (best_variance, lambda beta, errors: smallest_kl(beta, errors).sqrt(), "standard deviation"),
        (best_variance, lambda beta, errors: errors.square().mean(), "missing"),
        (best_variance, lambda beta, errors: beta, "perfect"),
        (best_variance, lambda beta, errors: beta + errors.square().sum(-1).mean(), "divide"),
        (best_variance, lambda beta, errors: beta + errors.var(0, correction=0).mean(), "mean square"),
        (best_variance, lambda beta, errors: beta + errors.square().mean(0), "one number"),
        (best_variance, lambda beta, errors: 5.0, "derivative"),
    ],
)
def test_slips_are_named(task: Exercise, slip: Any, reason: str) -> None:
    outcome = task.check(slip)
    assert outcome.kind == "wrong"
    assert reason in outcome.text


@pytest.mark.parametrize("task", [reverse, weight, best_variance], ids=lambda task: task.name)
def test_solutions_are_right_and_empty_answers_are_open(task: Exercise) -> None:
    assert task.check(task.solved())
    assert task.check(lambda *_: None).kind == "open"


def test_reverse_step_gives_the_joint_density() -> None:
    before, after = torch.tensor([0.3, -1.2]).double(), torch.tensor([0.7, 0.1]).double()
    v, beta = torch.tensor(1.7).double(), torch.tensor(0.3).double()
    mean, variance = reverse_step(after, v, beta)
    forwards = Normal(torch.zeros(2).double(), v.sqrt()).log_prob(before)
    forwards += Normal((1 - beta).sqrt() * before, beta.sqrt()).log_prob(after)
    backwards = Normal(torch.zeros(2).double(), ((1 - beta) * v + beta).sqrt()).log_prob(after)
    backwards += Normal(mean, variance.sqrt()).log_prob(before)
    torch.testing.assert_close(forwards, backwards)


def test_weights_turn_errors_of_the_noise_into_the_kl() -> None:
    beta, t = torch.linspace(0.01, 0.3, 10, dtype=torch.float64), 6
    x, noise, guess = 0.8, 0.4, -0.3
    z = kept(beta)[t].sqrt() * x + (1 - kept(beta)[t]).sqrt() * noise

    def mean(eps: float) -> torch.Tensor:  # of q(z_{t−1} given z_t, x), for the x that belongs to this noise
        signal = (z - (1 - kept(beta)[t]).sqrt() * eps) / kept(beta)[t].sqrt()
        before = previous(beta)[t]
        parts = before.sqrt() * beta[t] * signal + (1 - beta[t]).sqrt() * (1 - before) * z
        return parts / (1 - kept(beta)[t])

    def divergence(eps: float) -> torch.Tensor:
        return kl_divergence(Normal(mean(noise), tilde(beta)[t].sqrt()), Normal(mean(eps), beta[t].sqrt()))

    torch.testing.assert_close(divergence(guess) - divergence(noise), noise_weights(beta)[t] * (noise - guess) ** 2)


def test_smallest_kl_is_the_minimum() -> None:
    errors = torch.randn(50, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    narrow = torch.tensor(0.2, dtype=torch.float64)
    candidates = torch.linspace(0.3, 4.0, 2000, dtype=torch.float64)
    found = torch.stack(
        [
            kl_divergence(Normal(errors, narrow.sqrt()), Normal(torch.zeros(3).double(), s2.sqrt())).mean()
            for s2 in candidates
        ]
    )
    assert abs(candidates[found.argmin()] - smallest_kl(narrow, errors)) < 0.002
