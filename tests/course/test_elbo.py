"""The exercises of notebook 3 recognize common slips."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from flowvae.course.elbo import DELTA, bound, kl, kl_to_standard_normal, loss_of_a_shift, oracle, shift
from flowvae.course.exercise import Exercise


def reversed_kl(loc: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return ((1 + loc.square()) / scale.square() / 2 - 0.5 + scale.log()).sum(-1)


@pytest.mark.parametrize(
    ("task", "slip", "reason"),
    [
        (shift, -loss_of_a_shift(), "positive"),
        (shift, 2 * loss_of_a_shift(), "½"),
        (shift, 0.5 * DELTA @ oracle().precision().inverse() @ DELTA, "covariance"),
        (shift, 0.5 * oracle().precision().diagonal() @ DELTA**2, "diagonal"),
        (shift, 17.0, "17"),
        (shift, 0.5 * DELTA * (oracle().precision() @ DELTA), "(2,)"),
        (kl, reversed_kl, "KL(p‖q)"),
        (kl, lambda loc, scale: -kl_to_standard_normal(loc, scale), "sign"),
        (kl, lambda loc, scale: kl_to_standard_normal(loc, scale.sqrt()), "variance"),
        (kl, lambda loc, scale: kl_to_standard_normal(loc, scale) / 3, "mean"),
        (kl, lambda loc, scale: kl_to_standard_normal(loc, scale) + 0.5 * scale.log().sum(-1), "half of the logarithm"),
        (kl, lambda loc, scale: kl_to_standard_normal(loc, scale) + 1.5, "not zero"),
        (kl, lambda loc, scale: 0.0, "(50,)"),
        (kl, lambda loc, scale: kl_to_standard_normal(loc, scale).mean(), "(50,)"),
        (bound, lambda log_weight: log_weight.mean(0), "ELBO"),
        (bound, lambda log_weight: log_weight.logsumexp(0), "K"),
        (bound, lambda log_weight: log_weight.exp().mean(0), "logarithm"),
        (bound, lambda log_weight: log_weight.logsumexp(0) / 200, "subtract log K"),
        (bound, lambda log_weight: log_weight.logsumexp(0) - math.log(400), "number of images"),
        (kl, lambda loc, scale: kl_to_standard_normal(loc, scale) + 2 * scale.log().sum(-1), "wrong sign"),
        (shift, "a half", "not a number"),
        (bound, lambda log_weight: log_weight.exp().mean(0).log(), "logsumexp"),
        (bound, lambda log_weight: log_weight.logsumexp(1), "(400,)"),
    ],
)
def test_slips_are_named(task: Exercise, slip: Any, reason: str) -> None:
    outcome = task.check(slip)
    assert outcome.kind == "wrong"
    assert reason in outcome.text
