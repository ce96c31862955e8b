"""The exercises of notebook 14 accept right answers, written in another way, and recognize common slips."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from flowvae.course.conditional import (
    bayes,
    class_given_data,
    conditional_kl,
    kl_to_class,
    to_other_class,
    transfer,
    worth,
)
from flowvae.course.exercise import Exercise

Map = Callable[[Tensor, Tensor], Tensor]


def test_the_gain_is_reached_by_classes_that_do_not_overlap() -> None:
    x = torch.arange(10.0, dtype=torch.float64)
    given = Normal(x, 0.01).log_prob(x)  # log p(x | c) at the centre of each class
    marginal = Normal(x, 0.01).log_prob(x.unsqueeze(1)).logsumexp(1) - math.log(10)
    assert worth.check((given - marginal).mean())


def test_the_kl_agrees_with_full_covariances() -> None:
    def by_matrices(loc: Tensor, scale: Tensor, label: Tensor, means: Tensor, deviations: Tensor) -> Tensor:
        q = MultivariateNormal(loc, (scale**2).diag_embed())
        return kl_divergence(q, MultivariateNormal(means[label], (deviations[label] ** 2).diag_embed()))

    assert conditional_kl.check(by_matrices)


def test_bayes_agrees_with_discriminant_analysis() -> None:
    means, weights = torch.tensor([[-1.0, 0.5], [2.0, 0.0]]).double(), torch.tensor([0.7, 0.3]).double()
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(0)).double()
    log_likelihood = torch.stack([Normal(m, 1.0).log_prob(x).sum(1) for m in means], 1)
    logit = x @ (means[0] - means[1]) - 0.5 * (means[0].square() - means[1].square()).sum()
    logit = logit + (weights[0] / weights[1]).log()  # linear in x, as in linear discriminant analysis
    found = class_given_data(log_likelihood, weights.log())
    torch.testing.assert_close(found[:, 0] - found[:, 1], logit)


def swapped(z: Tensor, c: Tensor, new: Tensor, to_base: Map, from_base: Map) -> Tensor:
    return from_base(to_base(z, new), c)


@pytest.mark.parametrize(
    ("task", "slip", "reason"),
    [
        (worth, math.log2(10), "bits"),
        (worth, 10, "logarithm"),
        (worth, math.log(0.1), "positive"),
        (worth, 0.325, "nine"),
        (worth, 17.0, "17"),
        (conditional_kl, lambda loc, scale, *_: (0.5 * (scale**2 + loc**2 - 1) - scale.log()).sum(-1), "N(0, I)"),
        (conditional_kl, lambda *parts: 2 * kl_to_class(*parts), "½"),
        (conditional_kl, lambda *parts: kl_to_class(*parts) / 3, "mean"),
        (conditional_kl, lambda *parts: kl_to_class(*parts).mean(), "(40,)"),
        (conditional_kl, lambda q, s, c, m, d: kl_to_class(q, s, c, m, torch.ones_like(d)), "scale"),
        (conditional_kl, lambda q, s, c, m, d: kl_to_class(q, s, c, torch.zeros_like(m), d), "m = 0"),
        (conditional_kl, lambda q, s, c, m, d: kl_to_class(q, s.sqrt(), c, m, d.sqrt()), "variances"),
        (
            conditional_kl,
            lambda q, s, c, m, d: kl_to_class(m[c], d[c], torch.arange(len(q)), q, s),
            "KL(p‖q)",
        ),
        (bayes, lambda given, prior: given.log_softmax(1), "p(c)"),
        (bayes, lambda given, prior: given + prior, "joint"),
        (bayes, lambda given, prior: (given + prior).softmax(1), "logarithms"),
        (bayes, lambda given, prior: (given + prior).log_softmax(0), "images"),
        (bayes, lambda given, prior: (given - prior).log_softmax(1), "multiplies"),
        (bayes, lambda given, prior: given + prior - (given + prior).exp().sum(1, keepdim=True).log(), "logsumexp"),
        (bayes, lambda given, prior: (given + prior).logsumexp(1), "(60, 3)"),
        (transfer, lambda z, c, new, to, back: back(to(z, c), c), "started from"),
        (transfer, lambda z, c, new, to, back: to(z, c), "u itself"),
        (transfer, swapped, "exchanged"),
        (transfer, lambda z, c, new, to, back: back(z, new), "to the base first"),
        (transfer, lambda z, c, new, to, back: to(z, new), "wrong class"),
        (transfer, lambda z, c, new, to, back: to(back(z, c), new), "off by"),
        (transfer, lambda z, c, new, to, back: z[:1], "(40, 2)"),
        (transfer, lambda z, c, new, to, back: 2 * z, "off by"),
    ],
)
def test_slips_are_named(task: Exercise, slip: Any, reason: str) -> None:
    outcome = task.check(slip)
    assert outcome.kind == "wrong"
    assert reason in outcome.text


def test_a_transfer_without_a_change_of_class_is_the_identity() -> None:
    z, c = torch.randn(5, 2, generator=torch.Generator().manual_seed(0)), torch.zeros(5)
    same = to_other_class(z, c, c, lambda z, c: (z - 1) / 2, lambda u, c: 2 * u + 1)
    torch.testing.assert_close(same, z)
