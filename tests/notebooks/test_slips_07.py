"""The checks of notebook 7 refuse typical slips, each with its reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from flowvae import MAF, FlowGuide, Gaussian, Inverse

Solved = Callable[[str], dict[str, Any]]
STEM = "07_swapping_parts_by_name"


def test_slips_of_a_line_are_named(solved: Solved) -> None:
    names = solved(STEM)
    right = names["answer_1"]
    for slip, reason in (
        (replace(right, seed=0), "seed: yours is 0, the line says 3"),
        (replace(right, prior=MAF()), "prior: yours is maf, the line names nsf"),
        (replace(right, prior=replace(right.prior, bins=4)), "bins is 4 in yours and 6"),
        (replace(right, guide=replace(right.guide, conditioned=True)), "--no- is False"),
        (replace(right, guide=FlowGuide(Inverse(MAF()))), "guide: yours is inverse-maf"),
        (Gaussian(), "is not an Experiment"),
    ):
        with pytest.raises(ValueError, match=reason):
            names["check_1"](slip)


def test_slips_of_a_twist_are_named(solved: Solved) -> None:
    names = solved(STEM)
    twist = names["Twist"]

    class Clockwise(twist):  # type: ignore[misc,valid-type]
        def _turned(self, x: torch.Tensor, sign: int) -> Any:
            return super()._turned(x, -sign)

    class SameWay(twist):  # type: ignore[misc,valid-type]
        def _inverse(self, y: torch.Tensor) -> Any:
            return self._turned(y, +1)

    class WithoutHalf(twist):  # type: ignore[misc,valid-type]
        def _turned(self, x: torch.Tensor, sign: int) -> Any:
            return twist(self.strength)._turned(2**0.5 * x, sign) / 2**0.5

    class Grows(twist):  # type: ignore[misc,valid-type]
        def log_abs_det_jacobian(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return x.norm(dim=-1).log()

    class OneNumber(twist):  # type: ignore[misc,valid-type]
        def log_abs_det_jacobian(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return torch.zeros(())

    for slip, reason in (
        (Clockwise, "clockwise"),
        (SameWay, "same way again"),
        (WithoutHalf, "another angle"),
        (Grows, "from autograd"),
        (OneNumber, "one number a row"),
    ):
        with pytest.raises(ValueError, match=reason):
            names["check_2"](slip)

    class Single(twist):  # type: ignore[misc,valid-type]
        def log_abs_det_jacobian(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(x))

    names["check_2"](Single)  # float32, and right


def test_slips_of_roles_are_named(solved: Solved) -> None:
    names = solved(STEM)
    right = names["answer_3"]
    for name, said, reason in (
        ("prior:iaf", "refused", "18 network passes"),
        ("prior:planar", "warns", "root-finding"),
        ("guide:inverse-nsf", "warns", "neither error nor warning"),
        ("guide:nsf", "maybe", "is not one of"),
    ):
        with pytest.raises(ValueError, match=reason):
            names["check_3"]({**right, name: said})
