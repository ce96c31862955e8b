"""The comparison with typical slips: the right answer comes first, then the slips, then a message."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from flowvae.course.exercise import Wrong
from flowvae.course.judging import look_for_slips

SLIPS = {"the sign is inverted.": -2.0, "this is the right answer in another form.": 2.0}


def test_a_slip_that_coincides_with_the_right_answer_is_not_raised() -> None:
    look_for_slips(2.0, 2.0, SLIPS)
    look_for_slips(torch.full((3,), 2.0), torch.tensor(2.0, dtype=torch.float64), SLIPS)


@pytest.mark.parametrize("found", [-2.0, torch.tensor(-2), torch.full((3,), -2.0)])
def test_numbers_and_tensors_of_any_type_are_compared(found: Any) -> None:
    with pytest.raises(Wrong, match="sign"):
        look_for_slips(found, 2.0, SLIPS)


def test_the_tolerance_is_relative_if_atol_is_zero() -> None:
    look_for_slips(1.005e-9, 1e-9, {}, rtol=1e-2, atol=0)
    with pytest.raises(Wrong):
        look_for_slips(1.02e-9, 1e-9, {}, rtol=1e-2, atol=0)


def test_another_wrong_answer_gets_the_difference_or_the_given_message() -> None:
    with pytest.raises(Wrong, match=r"^it is off by up to 1\.5\.$"):
        look_for_slips(3.5, 2.0, SLIPS)
    with pytest.raises(Wrong, match=r"^it is off by up to 1\.5 nats\.$"):
        look_for_slips(3.5, 2.0, SLIPS, unit="nats")
    with pytest.raises(Wrong, match=r"^Integrate first\.$"):
        look_for_slips(3.5, 2.0, SLIPS, otherwise="Integrate first.")
    with pytest.raises(Wrong, match="sign"):
        look_for_slips(-2.0, 2.0, SLIPS, otherwise="Integrate first.")
