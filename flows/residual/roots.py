"""Roots of increasing functions of one variable, to float rounding and with gradients."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["TYPICAL_STEPS", "monotone_root"]

TYPICAL_STEPS = 12  # maximum number of evaluations for a root of x + r tanh(s x + b) = y at ordinary parameters


def monotone_root(function: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]], lower: Tensor, upper: Tensor) -> Tensor:
    """Find the root of an increasing function between two bounds, element by element.

    The search takes Newton steps inside a bracket that every evaluation narrows; if a step is more than half as long as
    the last one, the bracket is halved instead. It always ends, after at most 2 evaluations per bit of the mantissa,
    and usually after a few.

    The root has exact first and second derivatives with respect to all tensors inside the function: by the implicit
    function theorem they are those of two more Newton steps.

    Args:
        function: maps x to the value and slope of the function, and the sum of the absolute values of its terms, all of
            shape (...). The sum determines how close to zero the value can come with rounding.
        lower: where the function is not positive, shape (...).
        upper: where it is not negative, shape (...).
    """
    with torch.no_grad():
        low, high = torch.broadcast_tensors(lower, upper)
        epsilon = torch.finfo(low.dtype).eps
        tolerance = epsilon * torch.maximum(low.abs(), high.abs())
        x, length = (low + high) / 2, 2 * (high - low)
        settled = torch.zeros_like(x, dtype=torch.bool)
        for _ in range(2 * (4 - round(math.log2(epsilon)))):
            value, slope, size = function(x)
            low, high = torch.where(value <= 0, x, low), torch.where(value >= 0, x, high)
            newton = x - value / slope
            settled |= (high - low <= tolerance) | ((newton - x).abs() <= tolerance)
            settled |= value.abs() <= 2 * epsilon * size
            if settled.all():
                break
            newton = newton.clamp(low, high)  # where tanh is flat, the root is an end of the bracket
            good = (newton - x).abs() <= length / 2
            following = torch.where(settled, x, torch.where(good, newton, (low + high) / 2))
            x, length = following, torch.where(good, (following - x).abs(), (high - low) / 2)
    if torch.is_grad_enabled():
        for _ in range(2):
            value, slope, _ = function(x)
            newton = value / slope
            # x is exact up to rounding: the step adds its derivatives, without changing the value
            x = x - (newton - newton.detach())
    return x
