"""The exercises of notebook 2 accept answers found in another way, and recognize common slips."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from flowvae.course.exercise import Exercise
from flowvae.course.gradients import (
    best_baseline,
    constant_baseline,
    leave_one_out,
    leave_one_out_gradient,
    minibatch,
    minibatch_elbo,
    score_function,
    score_gradient,
)


def score_by_autograd(z: Tensor, f: Tensor, mu: float, sigma: float) -> Tensor:
    log_sigma = torch.full_like(z, sigma).log().requires_grad_()
    return f * torch.autograd.grad(Normal(mu, log_sigma.exp()).log_prob(z).sum(), log_sigma)[0]


def baseline_by_parabola(f: Tensor, s: Tensor) -> Tensor:
    """The minimum of the parabola through three measured second moments."""
    low, middle, high = (((f - b) ** 2 * s**2).double().mean() for b in (-10.0, 0.0, 10.0))
    return 5 * (low - high) / (low - 2 * middle + high)


def sample_covariance(f: Tensor, s: Tensor) -> Tensor:
    return torch.stack((f, s)).cov()[0, 1]


def elbo_of_copies(log_likelihood: Tensor, log_prior: Tensor, log_guide: Tensor, total: int) -> Tensor:
    """The ELBO of a data set that repeats the batch N/M times."""
    return log_likelihood.repeat(total // len(log_likelihood)).sum() + log_prior - log_guide


@pytest.mark.parametrize(
    ("task", "answer"),
    [
        (score_function, score_by_autograd),
        (constant_baseline, baseline_by_parabola),
        (leave_one_out, sample_covariance),
        (minibatch, elbo_of_copies),
    ],
)
def test_answers_found_in_another_way_are_right(task: Exercise, answer: Any) -> None:
    assert task.check(answer)
    assert task.check(task.solved())


def test_the_score_function_gradient_is_unbiased() -> None:
    mu, sigma = 0.5, 1.2
    z = mu + sigma * torch.randn(400_000, generator=torch.Generator().manual_seed(0))
    estimates = score_gradient(z, z.square(), mu, sigma)
    assert (estimates.mean() - 2 * sigma**2).abs() < 4 * estimates.std() / len(z) ** 0.5


def test_no_other_baseline_has_less_variance() -> None:
    s = torch.randn(2000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    f = (1 + s).square()
    best = best_baseline(f, s)

    def second_moment(b: Tensor) -> Tensor:
        return ((f - b) * s).square().mean()

    assert second_moment(best) < min(second_moment(best - 0.01), second_moment(best + 0.01))


@pytest.mark.parametrize(
    ("task", "slip", "reason"),
    [
        (score_function, lambda z, f, mu, sigma: score_gradient(z, f, mu, sigma) / sigma, "chain rule"),
        (score_function, lambda z, f, mu, sigma: f * (z - mu) / sigma**2, "respect to μ"),
        (score_function, lambda z, f, mu, sigma: f * (z - mu) ** 2 / sigma**2, "normalizing"),
        (score_function, lambda z, f, mu, sigma: f * (z - mu) ** 2 / sigma**2 - 1, "belongs to the score"),
        (score_function, lambda z, f, mu, sigma: (z - mu) ** 2 / sigma**2 - 1, "multiply"),
        (score_function, lambda *a: -score_gradient(*a), "sign"),
        (score_function, lambda z, f, mu, sigma: f * ((z - mu) ** 2 / sigma - 1), "not by σ"),
        (score_function, lambda z, f, mu, sigma: (2 * z + 1) * (z - mu), "pathwise"),
        (score_function, lambda *a: score_gradient(*a).mean(), "(40,)"),
        (score_function, lambda z, f, mu, sigma: 0 * z, "Differentiate"),
        (constant_baseline, lambda f, s: f.mean(), "E[f]"),
        (constant_baseline, lambda f, s: (f * s).mean() / (s * s).mean(), "quantity to minimize"),
        (constant_baseline, lambda f, s: (f * s.abs()).mean() / s.abs().mean(), "|s|"),
        (constant_baseline, lambda f, s: (f * s**2).sum(), "divide"),
        (constant_baseline, lambda f, s: (f * s**2).mean(), "not 1"),
        (constant_baseline, lambda f, s: sample_covariance(f, s) / s.var(), "slope"),
        (constant_baseline, lambda f, s: -best_baseline(f, s), "sign"),
        (constant_baseline, lambda f, s: (f * s).mean(), "gradient"),
        (constant_baseline, lambda f, s: f, "one number"),
        (constant_baseline, lambda f, s: 0.0, "derivative"),
        (leave_one_out, lambda f, s: ((f - f.mean()) * s).mean(), "own draw"),
        (leave_one_out, lambda f, s: len(f) * leave_one_out_gradient(f, s), "sum over the draws"),
        (leave_one_out, lambda f, s: (f * s).mean(), "no baseline"),
        (leave_one_out, lambda f, s: 5 / 4 * leave_one_out_gradient(f, s), "baseline only"),
        (leave_one_out, lambda f, s: ((f - (f.sum() - f)) * s).mean(), "not divided"),
        (leave_one_out, lambda f, s: ((f - (f.sum() - f) / len(f)) * s).mean(), "not by K"),
        (leave_one_out, lambda f, s: ((f + (f.sum() - f) / (len(f) - 1)) * s).mean(), "not added"),
        (leave_one_out, lambda f, s: f * s, "average"),
        (leave_one_out, lambda f, s: 1000.0, "K = 2"),
        (minibatch, lambda ll, p, q, n: ll.sum() + p - q, "missing"),
        (minibatch, lambda ll, p, q, n: n / len(ll) * (ll.sum() + p - q), "once"),
        (minibatch, lambda ll, p, q, n: len(ll) / n * ll.sum() + p - q, "not M/N"),
        (minibatch, lambda ll, p, q, n: n / len(ll) * ll.mean() + p - q, "mean"),
        (minibatch, lambda ll, p, q, n: n * ll.sum() + p - q, "not by N"),
        (minibatch, lambda ll, p, q, n: n / len(ll) * ll.sum() + p + q, "subtracted"),
        (minibatch, lambda ll, p, q, n: n / len(ll) * ll.sum() - p + q, "exchanged"),
        (minibatch, lambda ll, p, q, n: n * ll.mean(), "are missing"),
        (minibatch, lambda ll, p, q, n: n * (ll.mean() + p - q), "not N times"),
        (minibatch, lambda *a: -minibatch_elbo(*a), "loss"),
        (minibatch, lambda ll, p, q, n: minibatch_elbo(ll, p, q, n) / n, "all data"),
        (minibatch, lambda ll, p, q, n: ll + p - q, "sum over the batch"),
        (minibatch, lambda *a: 0.0, "Scale"),
    ],
)
def test_slips_are_named(task: Exercise, slip: Any, reason: str) -> None:
    outcome = task.check(slip)
    assert outcome.kind == "wrong"
    assert reason in outcome.text
