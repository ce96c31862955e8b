"""zuko's rational-quadratic spline, with a memory layout that is faster on a CPU."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Transform
from torch.nn.functional import pad
from zuko.transforms import MonotonicRQSTransform

__all__ = ["RationalQuadraticSpline"]


class RationalQuadraticSpline(MonotonicRQSTransform):
    """zuko's monotonic rational-quadratic spline, equal up to rounding.

    Torch's softmax over a last axis of 4 or 8 numbers takes ten times as long as over a first one, and with zuko's
    layout it takes half of the time of a spline flow's density.

    Args:
        widths: unconstrained bin widths, shape (..., K).
        heights: unconstrained bin heights, shape (..., K).
        derivatives: unconstrained derivatives at the inner knots, shape (..., K - 1).
        bound: the spline acts on [-bound, bound].
        slope: minimum slope.
        kwargs: keyword arguments of `torch.distributions.Transform`.

    References:
        Durkan, Bekasov, Murray & Papamakarios (2019), "Neural Spline Flows".
    """

    def __init__(
        self,
        widths: Tensor,
        heights: Tensor,
        derivatives: Tensor,
        bound: float = 5.0,
        slope: float = 1e-3,
        **kwargs: Any,
    ) -> None:
        Transform.__init__(self, **kwargs)
        least = math.log(slope)
        self.horizontal, self.vertical = (
            _knots(bins / (1 + (2 * bins / least).abs()), bound) for bins in (widths, heights)
        )
        self.derivatives = pad(derivatives / (1 + (derivatives / least).abs()), (1, 1)).exp()


def _knots(logits: Tensor, bound: float) -> Tensor:
    """Compute the edges of the bins, shape (..., K + 1), from -bound to bound."""
    shares = logits.movedim(-1, 0).softmax(0).movedim(0, -1)
    return bound * (2 * torch.cumsum(pad(shares, (1, 0)), dim=-1) - 1)
