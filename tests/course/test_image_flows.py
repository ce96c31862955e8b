"""The exercises of notebook 13 accept what is right and recognize common slips."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.autograd.functional import jacobian

from flowvae.course.exercise import Exercise
from flowvae.course.image_flows import (
    code_length,
    convolution_log_det,
    one_by_one,
    squeeze_image,
    squeezing,
    undo,
)
from flowvae.flows.image.squeeze import squeeze_order


@pytest.mark.parametrize("task", [squeezing, one_by_one, code_length, undo], ids=lambda task: task.name)
def test_the_solution_is_accepted_and_nothing_is_open(task: Exercise) -> None:
    assert task.check(task.solved())
    assert task.check(lambda *_: None).kind == "open"


@pytest.mark.parametrize(
    ("task", "slip", "reason"),
    [
        (squeezing, lambda x: x.reshape(2, 12, 2, 3), "reshape alone"),
        (
            squeezing,
            lambda x: squeeze_image(x)[:, torch.tensor([0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11])],
            "another order",
        ),
        (squeezing, lambda x: x[:, :, ::2, ::2].repeat(1, 4, 1, 1), "permutation"),
        (squeezing, lambda x: x, "(2, 3, 4, 6)"),
        (squeezing, lambda x: x.reshape(2, 12, 2, 3).flip(3), "one 2×2 block"),
        (one_by_one, lambda w, height, width: torch.linalg.slogdet(w)[1], "every pixel"),
        (one_by_one, lambda w, height, width: 3 * torch.linalg.slogdet(w)[1], "not that of the channels"),
        (one_by_one, lambda w, height, width: (height + width) * torch.linalg.slogdet(w)[1], "not their sum"),
        (one_by_one, lambda w, height, width: height * width * torch.linalg.det(w).log(), "absolute value"),
        (one_by_one, lambda w, height, width: -height * width * torch.linalg.slogdet(w)[1], "inverse"),
        (code_length, lambda p, d, s: -p / d / math.log(2), "change of variables is missing"),
        (code_length, lambda p, d, s: -(p + d * math.log(s)) / d / math.log(2), "sign of the change"),
        (code_length, lambda p, d, s: -(p - d * math.log(s)) / d, "nats per dimension"),
        (code_length, lambda p, d, s: -(p - d * math.log(s)) / math.log(2), "bits per image"),
        (code_length, lambda p, d, s: (p - d * math.log(s)) / d / math.log(2), "minus"),
        (code_length, lambda p, d, s: -(p - math.log(s)) / d / math.log(2), "once for each dimension"),
        (undo, lambda g, u, steps: u - g(u), "repeat"),
        (undo, lambda g, u, steps: u + g(u), "map itself"),
    ],
)
def test_slips_are_named(task: Exercise, slip: Any, reason: str) -> None:
    outcome = task.check(slip)
    assert outcome.kind == "wrong"
    assert reason in outcome.text


def test_squeeze_agrees_with_the_layer_of_glow() -> None:
    x = torch.randn(5, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(squeeze_image(x).flatten(1), x.flatten(1)[:, squeeze_order((3, 4, 6))])


def test_the_log_determinant_of_a_convolution_is_that_of_its_jacobian() -> None:
    weight = torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = torch.randn(3 * 2 * 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    full = jacobian(lambda x: torch.einsum("ij,jp->ip", weight, x.reshape(3, 8)).flatten(), x)
    assert torch.isclose(convolution_log_det(weight, 2, 4), torch.linalg.slogdet(full)[1])
