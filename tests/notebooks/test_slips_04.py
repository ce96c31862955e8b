"""Each check of notebook 04 refuses typical slips with their reasons."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

Solved = Callable[[str], dict[str, Any]]
STEM = "04_autoregressive_models_and_flows"


def test_slips_are_named(solved: Solved) -> None:
    names = solved(STEM)
    masks, right_passes = names["masks"], names["answer_2"]

    def sees_itself(place: Tensor, hidden: list[Tensor]) -> list[Tensor]:
        return [*masks(place, hidden)[:-1], (place[:, None] >= hidden[-1]).float()]

    def drops_weights(place: Tensor, hidden: list[Tensor]) -> list[Tensor]:
        first, _, last = masks(place, hidden)
        return [first, (hidden[1][:, None] > hidden[0]).float(), last]

    def turned(place: Tensor, hidden: list[Tensor]) -> list[Tensor]:
        _, second, last = masks(place, hidden)
        return [(hidden[0][:, None] <= place).float(), second, last]

    for masking, reason in (
        (sees_itself, "sees itself"),
        (drops_weights, "mask 2 drops weights"),
        (turned, "sees itself"),
        (lambda place, hidden: [mask.T for mask in masks(place, hidden)], "transposed"),
        (lambda place, hidden: masks(torch.arange(1, 6), hidden), "natural order"),
    ):
        with pytest.raises(ValueError, match=reason):
            names["check_1"](masking)

    for name, value, reason in (
        ("MADE: draw", 25 * 64, "counts every image"),
        ("MAF: draw", 5, "other direction"),
        ("IAF: score", 5, "other direction"),
        ("MAF: draw", 64, "right for one transform"),
        ("RealNVP: draw", 8 * 64, "known in both directions"),
        ("distillation step", 5, "two flows"),
        ("MADE: score", 2, "is not what was counted"),
        ("MADE: score", None, "not answered"),
    ):
        with pytest.raises(ValueError, match=reason):
            names["check_2"](right_passes | {name: value})
    names["check_2"](right_passes | {"IAF: score": 325})

    def bits(scores: Tensor, scale: float) -> Tensor:
        return -(scores.mean(0) - scale) / (10 * math.log(2))

    def slip(scale: float, per: float = 1.0, levels: int = 17) -> Callable[..., Tensor]:
        return lambda density, x, noise: per * bits(density((x + noise) / levels), scale)

    for scoring, reason in (
        (slip(0.0), "change of variables"),
        (slip(10 * math.log(16), levels=16), "up to 17"),
        (slip(-10 * math.log(17)), "wrong sign"),
        (slip(math.log(17)), "not log 17"),
        (slip(10 * math.log(16)), "17, not 16"),
        (slip(10 * math.log(17), per=10), "bits per image"),
        (slip(10 * math.log(17), per=math.log(2)), "nats per dimension"),
        (lambda density, x, noise: bits(density(x / 17)[None], 10 * math.log(17)), "no noise"),
        (lambda density, x, noise: density((x + noise) / 17), "one number an image"),
    ):
        with pytest.raises(ValueError, match=reason):
            names["check_3"](scoring)
