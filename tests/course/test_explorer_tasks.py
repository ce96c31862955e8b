"""The exercises of notebook 7 recognize common slips."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor

from flowvae.course.exercise import Exercise
from flowvae.course.explorer_tasks import halfway, midpoints, share
from flowvae.evaluation import from_base, to_base


def second(way: Any) -> Any:
    """The right midpoint in code space with this one through the base."""
    return lambda prior, a, b: ((a + b) / 2, way(prior, a, b))


def mean_in_base(prior: Any, a: Tensor, b: Tensor) -> Tensor:
    return (to_base(prior, a) + to_base(prior, b)) / 2


@pytest.mark.parametrize("task", [share, halfway])
def test_the_solution_is_right_and_nothing_is_open(task: Exercise) -> None:
    assert task.check(task.solved())
    assert task.check(lambda *_: None).kind == "open"


@pytest.mark.parametrize(
    ("task", "slip", "reason"),
    [
        (share, lambda p, q: (p < p.quantile(0.05)).float().mean(), "codes set the threshold"),
        (share, lambda p, q: (q < q.quantile(0.05)).float().mean(), "codes set the threshold"),
        (share, lambda p, q: (p > q.quantile(0.05)).float().mean(), "outside of holes"),
        (share, lambda p, q: 100 * (p < q.quantile(0.05)).float().mean(), "per cent"),
        (share, lambda p, q: (p < q.quantile(0.05)).sum(), "divide by how many"),
        (share, lambda p, q: (p < q.quantile(0.95)).float().mean(), "95 % quantile"),
        (share, lambda p, q: (p < q.min()).float().mean(), "one outlier"),
        (share, lambda p, q: p < q.quantile(0.05), "(800,)"),
        (share, lambda p, q: (p < q.mean()).float().mean(), "First the 5 % quantile"),
        (halfway, lambda *args: midpoints(*args)[::-1], "exchange the two"),
        (halfway, lambda prior, a, b: (a + b, midpoints(prior, a, b)[1]), "is their mean"),
        (halfway, lambda *args: midpoints(*args)[0], "pair"),
        (halfway, second(lambda prior, a, b: (a + b) / 2), "the straight way once more"),
        (halfway, second(mean_in_base), "carry it back"),
        (halfway, second(lambda prior, a, b: from_base(prior, (a + b) / 2)), "go to the base first"),
        (halfway, second(lambda prior, a, b: to_base(prior, (a + b) / 2)), "then moved to the base"),
        (
            halfway,
            second(lambda prior, a, b: to_base(prior, (from_base(prior, a) + from_base(prior, b)) / 2)),
            "directions are exchanged",
        ),
        (halfway, second(lambda prior, a, b: b), "something else"),
    ],
)
def test_slips_are_named(task: Exercise, slip: Any, reason: str) -> None:
    outcome = task.check(slip)
    assert outcome.kind == "wrong"
    assert reason in outcome.text
