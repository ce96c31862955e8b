"""The checks of notebook 8 refuse typical slips, each with its reason."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from flowvae import NSF, Experiment
from flowvae.models import FlowDecoder
from flowvae.networks import MLP

Solved = Callable[[str], dict[str, Any]]
STEM = "08_prior_or_posterior"


def test_slips_of_a_standard_error_are_named(solved: Solved) -> None:
    names = solved(STEM)
    slips: list[tuple[Callable[..., Any], str]] = [
        (lambda a, b: ((b - a).mean(), (a - b).std(ddof=1) / math.sqrt(len(a))), "The sign"),
        (lambda a, b: ((a - b).mean(), (a - b).std() / math.sqrt(len(a))), "ddof=1"),
        (lambda a, b: ((a - b).mean(), (a - b).std(ddof=1)), "smaller by √n"),
        (lambda a, b: ((a - b).mean(), math.sqrt((a.var(ddof=1) + b.var(ddof=1)) / len(a))), "unpaired"),
        (lambda a, b: ((a - b).mean(), (a - b).var(ddof=1) / len(a)), "take the root"),
        (lambda a, b: (a - b).mean(), "two numbers"),
    ]
    for slip, reason in slips:
        with pytest.raises(ValueError, match=reason):
            names["check_1"](slip)


def test_slips_of_a_control_are_named(solved: Solved) -> None:
    names = solved(STEM)
    right = names["answer_2"]
    for slip, reason in (
        (replace(right, prior=NSF(transforms=4)), "not the flow"),
        (replace(Experiment(), encoder=right.decoder), "encoder differs"),
        (replace(right, seed=1), "seed differs"),
        (replace(right, decoder=MLP((256, 256))), "her flow arm has"),
        (right.decoder, "not an Experiment"),
        (replace(Experiment(), decoder=FlowDecoder(NSF(transforms=4), MLP())), "flow inside the decoder"),
    ):
        with pytest.raises(ValueError, match=reason):
            names["check_2"](slip)


def test_slips_of_arms_are_named(solved: Solved) -> None:
    names = solved(STEM)
    right = names["answer_3"]
    claims = list(right)
    for claim, pair, reason in (
        (claims[0], ("prior-flow", "normal"), "has the parameters and not the flow"),
        (claims[1], ("prior-flow", "wider"), "same generative model"),
        (claims[2], ("fine-tuned", "normal"), "learns no prior"),
        (claims[3], ("guide-flow", "guide-static"), "not what x adds"),
        (claims[0], ("wider", "normal"), "does not have the arm"),
        (claims[0], "wider", "a pair of arms"),
    ):
        with pytest.raises(ValueError, match=reason):
            names["check_3"]({**right, claim: pair})


def test_slips_of_holm_are_named(solved: Solved) -> None:
    names = solved(STEM)
    for slip, reason in (
        ([0.08, 0.084, 0.032, 0.8], "Bonferroni"),
        ([0.06, 0.042, 0.032, 0.2], "take the larger"),
        ([0.04, 0.063, 0.008, 0.8], "largest factor"),
        ([0.032, 0.06, 0.06, 0.2], "sorted"),
        ([0.1, 0.1, 0.1, 0.1], "multiply by 4, 3, 2, 1"),
        ([0.06, 0.032], "each of the four"),
    ):
        with pytest.raises(ValueError, match=reason):
            names["check_4"](slip)
