"""The exercises of notebook 1 accept answers found in another way, and recognize common slips."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from flowvae.course.exercise import Exercise
from flowvae.course.inference import (
    coin_log_evidence,
    coordinate,
    evidence,
    forward_fit,
    moments,
    responsibilities,
    update_coordinate,
    update_responsibilities,
)


def evidence_flip_by_flip(heads: int, tails: int, a: float, b: float) -> float:
    """The product rule: the next flip is heads with the posterior mean of z."""
    total = 0.0
    for flip in range(heads + tails):
        seen = min(flip, heads)
        total += math.log((a + seen if flip < heads else b + flip - heads) / (a + b + flip))
    return total


def moments_by_grid(weights: Tensor, locs: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
    grid = torch.linspace(-20, 20, 8001, dtype=torch.float64)
    density = (Normal(locs, scales).log_prob(grid[:, None]).exp() * weights).sum(1)
    density /= density.sum()
    mean = (density * grid).sum()
    return mean, (density * (grid - mean) ** 2).sum().sqrt()


def conditional(i: int, mean: Tensor, center: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """The conditional of a Gaussian, by its covariance blocks."""
    others = [j for j in range(len(mean)) if j != i]
    gain = torch.linalg.solve(covariance[others][:, others], covariance[others, i])
    return center[i] + gain @ (mean - center)[others], covariance[i, i] - gain @ covariance[others, i]


def responsibilities_by_draws(x: Tensor, mean: Tensor, variance: Tensor, weights: Tensor) -> Tensor:
    """The expected log-joint by quadrature at ±1 sd, exact for a quadratic."""
    points = torch.stack((mean - variance.sqrt(), mean + variance.sqrt()))
    expected = Normal(points[:, None], 1.0).log_prob(x[:, None]).mean(0) + weights.log()
    return expected.exp() / expected.exp().sum(1, keepdim=True)


@pytest.mark.parametrize(
    ("task", "answer"),
    [
        (evidence, evidence_flip_by_flip),
        (moments, moments_by_grid),
        (coordinate, conditional),
        (responsibilities, responsibilities_by_draws),
    ],
)
def test_answers_found_in_another_way_are_right(task: Exercise, answer: Any) -> None:
    assert task.check(answer)
    assert task.check(task.solved())


def overflows(heads: int, tails: int, a: float, b: float) -> float:
    beta = math.gamma(a + heads) * math.gamma(b + tails) / math.gamma(a + b + heads + tails)
    return math.log(beta * math.gamma(a + b) / math.gamma(a) / math.gamma(b))


def in_place(i: int, mean: Tensor, center: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    mean[i], variance = update_coordinate(i, mean, center, covariance)
    return mean[i], variance


def spread(change: Any) -> Any:
    """A right mean with a changed variance."""

    def answer(i: int, mean: Tensor, center: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
        location, variance = update_coordinate(i, mean, center, covariance)
        return location, change(variance, covariance[i, i])

    return answer


def moved(change: Any) -> Any:
    """A changed mean: `change` gets center_i, the sum over j ≠ i, the shift of i and Λ_ii."""

    def answer(i: int, mean: Tensor, center: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
        precision, shift = covariance.inverse(), mean - center
        rest = precision[i] @ shift - precision[i, i] * shift[i]
        return change(center[i], rest, shift[i], precision[i, i]), 1 / precision[i, i]

    return answer


@pytest.mark.parametrize(
    ("task", "slip", "reason"),
    [
        (evidence, lambda *case: math.exp(coin_log_evidence(*case)), "logarithm"),
        (evidence, lambda h, t, a, b: coin_log_evidence(h, t, a, b) + math.log(math.comb(h + t, h)), "any order"),
        (evidence, lambda h, t, a, b: math.lgamma(a + h) + math.lgamma(b + t) - math.lgamma(a + b + h + t), "divide"),
        (evidence, lambda h, t, a, b: coin_log_evidence(t, h, a, b), "tails to b"),
        (evidence, lambda *case: -coin_log_evidence(*case), "sign"),
        (evidence, overflows, "lgamma"),
        (evidence, lambda h, t, a, b: h * math.log(h / (h + t)) + t * math.log(t / (h + t)), "largest likelihood"),
        (evidence, lambda h, t, a, b: h * math.log(a / (a + b)) + t * math.log(b / (a + b)), "at the prior mean"),
        (evidence, lambda h, t, a, b: math.lgamma(a + h) + math.lgamma(b + t) - math.lgamma(a + b), "third factor"),
        (evidence, lambda *case: -1.0, "Integrate"),
        (moments, lambda w, m, s: forward_fit(w, m, s)[0], "pair"),
        (moments, lambda w, m, s: (m.mean(), s.mean()), "weighted"),
        (moments, lambda w, m, s: (m[w.argmax()], s[w.argmax()]), "one of the components"),
        (moments, lambda w, m, s: (forward_fit(w, m, s)[0], forward_fit(w, m, s)[1] ** 2), "variance"),
        (moments, lambda w, m, s: ((w * m).sum(), (w * s**2).sum().sqrt()), "distance between"),
        (moments, lambda w, m, s: ((w * m).sum(), (w * s).sum()), "standard deviations cannot"),
        (moments, lambda w, m, s: ((w * m).sum(), (w * (s**2 + m**2)).sum().sqrt()), "subtract"),
        (moments, lambda w, m, s: ((w * m).sum(), (w * (m - (w * m).sum()) ** 2).sum().sqrt()), "within"),
        (moments, lambda w, m, s: ((w * m).sum(), torch.tensor(9.0)), "not the standard deviation"),
        (coordinate, in_place, "argument"),
        (coordinate, lambda i, mean, center, covariance: mean[i], "pair"),
        (coordinate, moved(lambda m, rest, shift, precision: m + rest / precision), "sign"),
        (coordinate, moved(lambda m, rest, shift, precision: m - rest / precision - shift), "j = i"),
        (coordinate, moved(lambda m, rest, shift, precision: m - rest), "divide"),
        (coordinate, lambda i, m, c, cov: update_coordinate(i, m, c, cov.inverse()), "inverse"),
        (coordinate, lambda i, m, c, cov: (c[i], cov[i, i]), "conditional mean"),
        (coordinate, lambda i, m, c, cov: (update_coordinate(i, m, c, cov)[0] + m[i] - c[i], 1.0), "mean[i]"),
        (coordinate, spread(lambda variance, marginal: 1 / marginal), "1/Σ_ii"),
        (coordinate, spread(lambda variance, marginal: marginal), "marginal"),
        (coordinate, spread(lambda variance, marginal: 1 / variance), "precision"),
        (coordinate, spread(lambda variance, marginal: variance.sqrt()), "standard deviation"),
        (responsibilities, lambda x, m, v, w: update_responsibilities(x, m, 0 * v, w), "uncertainty"),
        (responsibilities, lambda x, m, v, w: update_responsibilities(x, m, v, w / w), "π_k are missing"),
        (responsibilities, lambda x, m, v, w: update_responsibilities(x, m, 0 * v, w / w), "both missing"),
        (responsibilities, lambda x, m, v, w: update_responsibilities(x, m, -v, w), "sign"),
        (responsibilities, lambda x, m, v, w: update_responsibilities(x, m, v, w.exp()), "logarithm"),
        (responsibilities, lambda x, m, v, w: update_responsibilities(x, m, v, w).T, "(N, K)"),
        (responsibilities, lambda x, m, v, w: 2 * update_responsibilities(x, m, v, w), "sum to one"),
    ],
)
def test_slips_are_named(task: Exercise, slip: Any, reason: str) -> None:
    outcome = task.check(slip)
    assert outcome.kind == "wrong"
    assert reason in outcome.text
