"""The exercises of notebook 8 recognize common slips."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from flowvae.course.exercise import Exercise
from flowvae.course.flow_posterior import (
    blame,
    both_losses,
    counts,
    objectives,
    reported_gaps,
    stack,
    stacked_log_det,
)


def all_at_z(z: Tensor, layers: list[Any]) -> Tensor:
    return sum((stacked_log_det(z, [layer]) for layer in layers), torch.zeros(len(z)))


def losses(annealed: Any = None, warmed: Any = None) -> Any:
    """A pair of losses, one of which may be written otherwise; written as (log q, log p, log-likelihood, β)."""

    def answer(q: Tensor, p: Tensor, like: Tensor, beta: float) -> Any:
        right = both_losses(q, p, like, beta)
        return tuple(r if f is None else f(q, p, like, beta) for f, r in zip((annealed, warmed), right, strict=True))

    return answer


@pytest.mark.parametrize("task", [stack, counts, objectives, blame])
def test_the_solution_is_right_and_nothing_is_open(task: Exercise) -> None:
    assert task.check(task.solved())
    assert task.check(None).kind == "open"


@pytest.mark.parametrize(
    ("task", "slip", "reason"),
    [
        (stack, all_at_z, "every layer is taken at the first z"),
        (stack, lambda z, layers: -stacked_log_det(z, layers), "of the inverse"),
        (stack, lambda z, layers: stacked_log_det(z, layers).exp(), "logarithm"),
        (stack, lambda z, layers: stacked_log_det(z, layers).sum(), "(6,)"),
        (stack, lambda z, layers: stacked_log_det(z, layers[::-1]), "autograd"),
        (counts, (50, 50), "come from the encoder too"),
        (counts, (30, 34), "one number, b"),
        (counts, (50, 52), "two vectors μ and σ"),
        (counts, 50, "pair"),
        (objectives, losses(lambda q, p, like, b: (q - b * p - like).mean()), "annealed: β weights log p(z) alone"),
        (objectives, losses(lambda q, p, like, b: (q - p - b * like).mean()), "annealed: β weights log p(x | z) alone"),
        (objectives, losses(lambda q, p, like, b: b * (q - p - like).mean()), "annealed: β weights log q too"),
        (objectives, lambda *args: both_losses(*args)[::-1], "exchange the two"),
        (objectives, losses(lambda q, p, like, b: (b * (p + like) - q).mean()), "annealed: the sign"),
        (objectives, losses(lambda q, p, like, b: q - b * (p + like)), "annealed: the shape is (50,)"),
        (objectives, losses(None, lambda q, p, like, b: (q - b * p - like).mean()), "warm-up: β weights log p(z) only"),
        (objectives, losses(None, lambda q, p, like, b: (q - p - b * like).mean()), "keeps weight 1"),
        (objectives, losses(None, lambda q, p, like, b: (q - b * (p + like)).mean()), "free energy once more"),
        (objectives, losses(None, lambda q, p, like, b: (q - p - like).mean()), "is not the loss"),
        (objectives, lambda *args: both_losses(*args)[0], "pair"),
        (blame, "amortization too large", "too small"),
        (blame, "neither", "stands between them"),
        (blame, "both", "none of"),
    ],
)
def test_slips_are_named(task: Exercise, slip: Any, reason: str) -> None:
    outcome = task.check(slip)
    assert outcome.kind == "wrong"
    assert reason in outcome.text


def test_an_unfinished_refinement_reports_a_gap_that_does_not_exist() -> None:
    gaps = reported_gaps((3, 30, 300))
    assert gaps[3] > 1 > gaps[30] > gaps[300]
    assert gaps[300] == pytest.approx(0, abs=1e-3)  # the posterior is in the family
