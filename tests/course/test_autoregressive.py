"""The exercises of notebook 12 recognize common slips."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from flowvae.course.autoregressive import (
    code_length,
    discretized_logistic,
    logistic,
    masks,
    masks_of_an_order,
    measured_passes,
    numbers_of_passes,
    passes,
)
from flowvae.course.exercise import Exercise


def sees_itself(place: Tensor, hidden: list[Tensor]) -> list[Tensor]:
    return [*masks_of_an_order(place, hidden)[:-1], (place[:, None] >= hidden[-1]).float()]


def drops_weights(place: Tensor, hidden: list[Tensor]) -> list[Tensor]:
    first, _, last = masks_of_an_order(place, hidden)
    return [first, (hidden[1][:, None] > hidden[0]).float(), last]


def reversed_rule(place: Tensor, hidden: list[Tensor]) -> list[Tensor]:
    _, second, last = masks_of_an_order(place, hidden)
    return [(hidden[0][:, None] <= place).float(), second, last]


def looks_ahead(place: Tensor, hidden: list[Tensor]) -> list[Tensor]:
    everywhere = [torch.ones_like(mask) for mask in masks_of_an_order(place, hidden)]
    only = (place[:, None] < place).float()  # no path to itself, all paths to earlier pixels
    return [torch.eye(7, 5), everywhere[1] * 0 + torch.eye(6, 7), torch.cat((only, torch.zeros(5, 1)), 1)]


def counted(name: str, value: int) -> dict[str, int]:
    return numbers_of_passes() | {name: value}


def length(scores: Tensor, scale: float) -> Tensor:
    return -(scores.mean(0) - scale) / (10 * math.log(2))


def scaled(scale: float, per: float = 1.0, levels: int = 17) -> Callable[..., Tensor]:
    return lambda density, x, noise: per * length(density((x + noise) / levels), scale)


@pytest.mark.parametrize(
    ("task", "slip", "reason"),
    [
        (masks, sees_itself, "sees itself"),
        (masks, drops_weights, "mask 2 drops weights"),
        (masks, reversed_rule, "sees itself"),
        (masks, looks_ahead, "too early"),
        (masks, lambda place, hidden: [mask.T for mask in masks_of_an_order(place, hidden)], "transposed"),
        (masks, lambda place, hidden: masks_of_an_order(torch.arange(1, 6), hidden), "natural order"),
        (masks, lambda place, hidden: masks_of_an_order(place, hidden)[:2], "three layers"),
        (passes, counted("MADE: draw", 25 * 64), "counts every image"),
        (passes, counted("MAF: draw", 5), "other direction"),
        (passes, counted("IAF: score", 5), "other direction"),
        (passes, counted("MAF: draw", 64), "right for one transform"),
        (passes, counted("RealNVP: draw", 8 * 64), "known in both directions"),
        (passes, counted("distillation step", 5), "two flows"),
        (passes, counted("MADE: score", 2), "is not what"),
        (logistic, lambda x, mu, s: torch.sigmoid((x + 0.5 - mu) / s) - torch.sigmoid((x - 0.5 - mu) / s), "−∞"),
        (logistic, lambda x, mu, s: torch.sigmoid((x - mu) / s) * torch.sigmoid((mu - x) / s) / s, "density"),
        (logistic, lambda x, mu, s: discretized_logistic(x, mu, s).log(), "logarithm"),
        (logistic, lambda x, mu, s: torch.sigmoid((x + 1 - mu) / s) - torch.sigmoid((x - mu) / s), "centred"),
        (logistic, lambda x, mu, s: Normal(mu, s).cdf(x + 0.5) - Normal(mu, s).cdf(x - 0.5), "Gaussian"),
        (code_length, scaled(0.0), "change of variables"),
        (code_length, scaled(10 * math.log(16), levels=16), "up to 17"),
        (code_length, scaled(-10 * math.log(17)), "wrong sign"),
        (code_length, scaled(math.log(17)), "not log 17"),
        (code_length, scaled(10 * math.log(16)), "17, not 16"),
        (code_length, scaled(10 * math.log(17), per=10), "bits per image"),
        (code_length, scaled(10 * math.log(17), per=math.log(2)), "nats per dimension"),
        (code_length, scaled(10 * math.log(17), per=-1), "the sign"),
        (code_length, lambda density, x, noise: length(density(x / 17)[None], 10 * math.log(17)), "no noise"),
        (code_length, lambda density, x, noise: density((x + noise) / 17), "one number an image"),
    ],
)
def test_slips_are_named(task: Exercise, slip: Any, reason: str) -> None:
    outcome = task.check(slip)
    assert outcome.kind == "wrong", outcome
    assert reason in outcome.text


def test_a_missing_number_of_passes_is_open() -> None:
    assert passes.check(dict.fromkeys(numbers_of_passes())).kind == "open"


def test_the_passes_are_those_of_running_networks() -> None:
    found = measured_passes()
    assert found.pop("IAF: score") == 5 * 65  # one pass more a transform, for the log-determinant
    assert found == {name: value for name, value in numbers_of_passes().items() if name != "IAF: score"}
    assert passes.check(numbers_of_passes() | {"IAF: score": 325})
