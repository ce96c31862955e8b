"""The exercises of notebook 16 recognize common slips and accept their solutions."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from flowvae import NSF, Experiment
from flowvae.course.exercise import Exercise
from flowvae.course.prior_or_posterior import (
    CLAIMS,
    arms_of_claims,
    control,
    corrected,
    deciding,
    paired,
    pairs_of_arms,
    wider_decoder,
)
from flowvae.models import FlowDecoder
from flowvae.networks import MLP, Conv

FIRST, SECOND, THIRD, FOURTH = CLAIMS


@pytest.mark.parametrize("task", [paired, control, deciding, corrected], ids=lambda task: task.name)
def test_solutions_are_right(task: Exercise) -> None:
    assert task.check(task.solved())


def test_the_arms_exist() -> None:
    arms = arms_of_claims()
    for claim, pair in pairs_of_arms().items():
        assert set(pair) <= set(arms[claim.partition(":")[0]])


@pytest.mark.parametrize(
    ("slip", "reason"),
    [
        (lambda a, b: ((b - a).mean(), (a - b).std(ddof=1) / math.sqrt(len(a))), "sign"),
        (lambda a, b: (a.mean(), 0.1), "mean of a − b"),
        (lambda a, b: ((a - b).mean(), (a - b).std() / math.sqrt(len(a))), "ddof=1"),
        (lambda a, b: ((a - b).mean(), (a - b).std(ddof=1)), "smaller by √n"),
        (lambda a, b: ((a - b).mean(), math.sqrt((a.var(ddof=1) + b.var(ddof=1)) / len(a))), "unpaired"),
        (lambda a, b: ((a - b).mean(), (a - b).var(ddof=1) / len(a)), "take the root"),
        (lambda a, b: ((a - b).mean(), 7.0), "7 is not"),
        (lambda a, b: ((a - b).mean(), math.sqrt((a.var() + b.var()) / len(a))), "unpaired"),
        (lambda a, b: ((a - b).mean(), (a - b).std(ddof=1) / len(a)), "not by n"),
        (lambda a, b: ((a - b).mean(), 1.96 * (a - b).std(ddof=1) / math.sqrt(len(a))), "quantile"),
        (lambda a, b: ((a - b).std(ddof=1) / math.sqrt(len(a)), (a - b).mean()), "mean first"),
        (lambda a, b: {"mean": 1.0, "se": 1.0}, "two numbers"),
        (lambda a, b: (a - b).mean(), "two numbers"),
    ],
)
def test_slips_of_a_standard_error_are_named(slip: Any, reason: str) -> None:
    assert_wrong(paired, slip, reason)


@pytest.mark.parametrize("form", [np.array, torch.tensor, lambda pair: torch.tensor(pair, dtype=torch.float32)])
def test_a_standard_error_may_be_an_array(form: Any) -> None:
    assert paired.check(lambda a, b: form([(a - b).mean(), (a - b).std(ddof=1) / math.sqrt(len(a))]))
    assert paired.check(lambda a, b: ((a - b).mean(), None)).kind == "open"


def test_slips_of_a_control_are_named() -> None:
    right = wider_decoder()
    for slip, reason in (
        (replace(right, prior=NSF(transforms=4)), "not the flow"),
        (replace(Experiment(), encoder=right.decoder), "encoder differs"),
        (replace(right, seed=1), "seed differs"),
        (replace(right, decoder=MLP((256, 256))), "the flow arm"),
        (right.decoder, "not an Experiment"),
        (replace(Experiment(), decoder=FlowDecoder(NSF(transforms=4), MLP())), "flow inside the decoder"),
        (replace(Experiment(), decoder=Conv()), "the decoder is a Conv"),
    ):
        assert_wrong(control, slip, reason)


@pytest.mark.parametrize(
    ("claim", "pair", "reason"),
    [
        (FIRST, ("prior-flow", "normal"), "has the parameters but not the flow"),
        (SECOND, ("prior-flow", "wider"), "same generative model"),
        (THIRD, ("fine-tuned", "normal"), "learns no prior"),
        (FOURTH, ("guide-flow", "guide-static"), "not about what x adds"),
        (FIRST, ("wider", "normal"), "does not have the arm"),
        (FIRST, "wider", "not a pair of arms"),
        (FIRST, ("prior_flow", "wider"), "no arm 'prior_flow'"),
    ],
)
def test_slips_of_arms_are_named(claim: str, pair: Any, reason: str) -> None:
    assert_wrong(deciding, {**pairs_of_arms(), claim: pair}, reason)


def test_open_claims_are_not_answered() -> None:
    assert deciding.check(dict.fromkeys(CLAIMS)).kind == "open"
    assert deciding.check(dict.fromkeys(CLAIMS, (None, None))).kind == "open"
    assert_wrong(deciding, {FIRST: None}, "four claims")
    assert_wrong(deciding, list(pairs_of_arms().values()), "four claims")


@pytest.mark.parametrize(
    ("slip", "reason"),
    [
        ([0.08, 0.084, 0.032, 0.8], "Bonferroni"),
        ([0.06, 0.042, 0.032, 0.2], "take the larger"),
        ([0.04, 0.063, 0.008, 0.8], "largest factor"),
        ([0.032, 0.06, 0.06, 0.2], "sorted"),
        ([0.1, 0.1, 0.1, 0.1], "multiply by 4, 3, 2, 1"),
        ([0.06, 0.032], "each of the four"),
        ([0.08, 0.063, 0.016, 0.2], "place in the list"),
        ([0.028, 0.028, 0.028, 0.2], "Benjamini"),
        ("0.06, 0.06, 0.032, 0.2", "not a list of four numbers"),
    ],
)
def test_slips_of_holm_are_named(slip: Any, reason: str) -> None:
    assert_wrong(corrected, slip, reason)


def assert_wrong(task: Exercise, slip: Any, reason: str) -> None:
    outcome = task.check(slip)
    assert outcome.kind == "wrong"
    assert reason in outcome.text
