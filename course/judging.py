"""Common parts of the judges of exercises: checks of an answer's shape, and comparison with typical slips."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from flowvae.course.exercise import Exercise, Wrong, answered, exercise

__all__ = ["line", "look_for_slips", "tensor_of"]


def tensor_of(result: Any, shape: Sequence[int], meaning: str) -> Tensor:
    """Converts the result of a student's function to a tensor in double precision.

    Args:
        result: The result.
        shape: The shape that it should have.
        meaning: Meaning of the shape, for the message, as in "one number per vector".

    Raises:
        Wrong: It is not numeric, or has another shape.

    """
    try:
        found = torch.as_tensor(answered(result)).detach().double()
    except (TypeError, ValueError):
        raise Wrong(f"{result!r} is not a number or a tensor of numbers.") from None
    if tuple(found.shape) != tuple(shape):
        raise Wrong(f"the shape is {tuple(found.shape)} and should be {tuple(shape)}: {meaning}.")
    return found


def look_for_slips(
    found: Tensor | float,
    right: Tensor | float,
    slips: Mapping[str, Any],
    *,
    rtol: float = 1e-4,
    atol: float = 1e-6,
    unit: str = "",
    otherwise: str = "",
) -> None:
    """Compares an answer with the right one and, if it differs, with typical slips.

    Args:
        found: The answer.
        right: The right answer.
        slips: Results of typical slips, by the reason to show.
        rtol: Relative tolerance.
        atol: Absolute tolerance.
        unit: Unit of the answer, as in "nats".
        otherwise: Message for an answer that is wrong without being a slip; by default the largest difference.

    Raises:
        Wrong: With the reason of the slip, or with `otherwise`.

    """
    given = torch.as_tensor(found, dtype=torch.float64)

    def equal(value: Any) -> bool:
        return torch.allclose(given, torch.as_tensor(value, dtype=given.dtype).expand_as(given), rtol, atol)

    if equal(right):
        return
    for reason, value in slips.items():
        if equal(value):
            raise Wrong(reason)
    raise Wrong(otherwise or f"it is off by up to {(given - right).abs().max():.3g} {unit}".rstrip() + ".")


def line(name: str, answer: Callable[[], Any], fine: Mapping[int, str], hint: str) -> Exercise:
    """Makes an exercise that asks for the wrong line or lines of a piece of code.

    Args:
        name: Name of the exercise in the notebook.
        answer: Returns the number of the wrong line or a tuple of numbers; its docstring gives the reason.
        fine: Reasons why other lines are right, by number.
        hint: Where to look.

    """
    right = answer()
    wanted = set(right) if isinstance(right, tuple) else {right}

    def judge(found: Any) -> str:
        """Judges the numbers of the wrong lines."""
        numbers = set(found) if isinstance(found, tuple | list | set) else {found}
        if not all(isinstance(number, int) for number in numbers):
            raise Wrong("answer with the number of a line, or with several as in (1, 2).")
        for number in sorted(numbers - wanted):
            raise Wrong(f"line {number} is not wrong{': ' + fine[number] if number in fine else ''}.")
        if numbers != wanted:
            raise Wrong(f"there is a slip in another line too; {len(wanted)} lines are wrong.")
        return "Now write it correctly."

    judge.__name__ = name
    return exercise(answer, hints=(hint,), value=True)(judge)
