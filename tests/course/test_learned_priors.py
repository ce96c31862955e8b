"""The exercises of notebook 15 accept right answers, written in another way, and recognize common slips."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from flowvae.course.exercise import Exercise
from flowvae.course.learned_priors import constant, information_and_gap, log_constant, log_mixture, surgery, vamp


def test_surgery_of_separate_posteriors_has_the_largest_information() -> None:
    loc = 100 * torch.arange(8.0, dtype=torch.float64)
    log_q = Normal(loc, 1.0).log_prob(loc.unsqueeze(1))
    information, gap = information_and_gap(log_q, log_q.logsumexp(1) - math.log(8))  # the prior is q̄
    torch.testing.assert_close(information, torch.tensor(8.0).double().log())
    torch.testing.assert_close(gap, torch.zeros(()).double())


def test_surgery_accepts_a_loop_with_numbers() -> None:
    def by_hand(log_q: Tensor, log_prior: Tensor) -> tuple[float, float]:
        means = [sum(math.exp(value) for value in row) / len(row) for row in log_q.tolist()]
        own, prior = log_q.diagonal().tolist(), log_prior.tolist()
        return (
            sum(a - math.log(m) for a, m in zip(own, means, strict=True)) / len(means),
            sum(math.log(m) - b for m, b in zip(means, prior, strict=True)) / len(means),
        )

    assert surgery.check(by_hand)


def test_the_mixture_integrates_to_one() -> None:
    side = torch.arange(-8, 8, 0.05, dtype=torch.float64)
    grid = torch.cartesian_prod(side, side)
    loc, scale = torch.tensor([[0.0, 1.0], [-1.0, 0.5]]).double(), torch.tensor([[0.5, 1.0], [1.0, 0.3]]).double()
    torch.testing.assert_close(log_mixture(grid, loc, scale).exp().sum() * 0.05**2, torch.tensor(1.0).double())


def swapped(log_q: Tensor, log_prior: Tensor) -> tuple[Tensor, Tensor]:
    information, gap = information_and_gap(log_q, log_prior)
    return gap, information


def with_aggregate(aggregate: Any) -> Any:
    def answer(log_q: Tensor, log_prior: Tensor) -> tuple[Tensor, Tensor]:
        aggregated = aggregate(log_q)
        return (log_q.diagonal() - aggregated).mean(), (aggregated - log_prior).mean()

    return answer


def of_components(mix: Any) -> Any:
    return lambda z, loc, scale: mix(Normal(loc, scale).log_prob(z.unsqueeze(1)))


@pytest.mark.parametrize(
    ("task", "slip", "reason"),
    [
        (surgery, swapped, "exchanged"),
        (surgery, with_aggregate(lambda log_q: log_q.logsumexp(1)), "1/N"),
        (surgery, with_aggregate(lambda log_q: log_q.mean(1)), "mean of logarithms"),
        (surgery, with_aggregate(lambda log_q: log_q.logsumexp(0) - math.log(60)), "codes of one image"),
        (surgery, lambda log_q, log_prior: log_q.mean(), "two numbers"),
        (surgery, lambda log_q, log_prior: (log_q.diagonal(), log_prior), "means"),
        (surgery, lambda log_q, log_prior: (log_q.mean(), log_prior.mean()), "I is off"),
        (vamp, of_components(lambda each: (each.logsumexp(1) - math.log(6)).sum(-1)), "each dimension"),
        (vamp, of_components(lambda each: each.sum(-1).logsumexp(1)), "1/K"),
        (vamp, of_components(lambda each: each.sum(-1).mean(1)), "logarithms"),
        (vamp, of_components(lambda each: each.sum(-1).exp().mean(1)), "density"),
        (vamp, of_components(lambda each: each.sum(-1).exp().mean(1).log()), "logsumexp"),
        (vamp, lambda z, loc, scale: log_mixture(z, loc, scale.sqrt()), "variance"),
        (vamp, of_components(lambda each: each.sum(-1)), "(50, 6)"),
        (constant, lambda log_odds: log_odds.mean(), "E[log r]"),
        (constant, lambda log_odds: log_odds.exp().mean(), "logarithm"),
        (constant, lambda log_odds: log_odds.logsumexp(0), "M is missing"),
        (constant, lambda log_odds: -log_constant(log_odds), "sign"),
        (constant, lambda log_odds: log_odds.sigmoid().mean().log(), "odds"),
        (constant, lambda log_odds: log_odds.exp().mean().log(), "overflows"),
        (constant, lambda log_odds: log_odds, "one number"),
        (constant, lambda log_odds: 0.0 * log_odds.sum(), "not log Z"),
    ],
)
def test_slips_are_named(task: Exercise, slip: Any, reason: str) -> None:
    outcome = task.check(slip)
    assert outcome.kind == "wrong"
    assert reason in outcome.text
