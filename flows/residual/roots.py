"""The root of an increasing function of one variable, to float rounding and with gradients."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["TYPICAL_STEPS", "monotone_root"]

TYPICAL_STEPS = 12  # evaluations that a root of x + r tanh(s x + b) = y takes at most at ordinary parameters


def monotone_root(function: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]], lower: Tensor, upper: Tensor) -> Tensor:
    """The x between two bounds at which an increasing function is zero, element by element.

    Newton's steps inside a bracket that every evaluation narrows; where a step is more than half as long as
    the last one, the bracket is halved instead. So it always ends, after 2 evaluations a bit of the mantissa at
    most, and mostly after a few.

    The root has first and second derivatives with respect to everything that the function holds: they are
    those of two more Newton steps, which by the implicit function theorem is exact.

    Args:
        function: x to its value, its slope, and the sum of the sizes of what it adds up, all of shape (...). The
            last says how near to zero rounding lets the value come.
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
            # x is right to rounding: the step gives its derivatives only, and leaves the value alone
            x = x - (newton - newton.detach())
    return x
