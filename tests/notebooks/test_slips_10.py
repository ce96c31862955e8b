"""The exercises of notebook 10: each check refuses its slips with the reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from flowvae.evaluation import from_base, to_base

Solved = Callable[[str], dict[str, Any]]


def test_slips_of_a_share_in_holes_are_named(solved: Solved) -> None:
    check = solved("10_the_explorer")["check_1"]
    slips: list[tuple[Any, str]] = [
        (lambda p, q: (p < p.quantile(0.05)).float().mean(), "codes set the threshold"),
        (lambda p, q: (q < q.quantile(0.05)).float().mean(), "codes set the threshold"),
        (lambda p, q: (p > q.quantile(0.05)).float().mean(), "outside of holes"),
        (lambda p, q: 100 * (p < q.quantile(0.05)).float().mean(), "not per cent"),
        (lambda p, q: (p < q.quantile(0.05)).sum(), "divide by the number of draws"),
        (lambda p, q: (p < q.quantile(0.95)).float().mean(), "95 % quantile"),
        (lambda p, q: (p < q.min()).float().mean(), "one outlier"),
        (lambda p, q: p < q.quantile(0.05), r"shape \(800,\)"),
        (lambda p, q: (p < q.mean()).float().mean(), "First the 5 % quantile"),
    ]
    for slip, reason in slips:
        with pytest.raises(ValueError, match=reason):
            check(slip)


def test_slips_of_ways_between_codes_are_named(solved: Solved) -> None:
    names = solved("10_the_explorer")
    check, straight, through_base = names["check_2"], names["straight"], names["through_base"]
    slips: list[tuple[Any, Any, str]] = [
        (through_base, straight, "straight: this is the way through the base"),
        (lambda prior, a, b: a + b, through_base, "straight: .* their mean"),
        (straight, straight, "through_base: this is the straight way"),
        (straight, lambda prior, a, b: (to_base(prior, a) + to_base(prior, b)) / 2, "carry it back"),
        (straight, lambda prior, a, b: from_base(prior, (a + b) / 2), "both codes go to the base first"),
        (
            straight,
            lambda prior, a, b: to_base(prior, (from_base(prior, a) + from_base(prior, b)) / 2),
            "directions are exchanged",
        ),
        (straight, lambda prior, a, b: b, "through_base: T of the mean"),
    ]
    for direct, bent, reason in slips:
        with pytest.raises(ValueError, match=reason):
            check(direct, bent)
