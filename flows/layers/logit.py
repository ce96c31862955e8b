"""The logit transform of Dinh et al., from dequantized pixels to the real line."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Transform, constraints
from zuko.lazy import UnconditionalTransform

from flowvae.core.errors import FlowvaeError, shown

__all__ = ["Logit", "LogitTransform"]


class LogitTransform(Transform):
    """Logit transform y = logit(s), s = α + (1 − 2α) v / top, on rows (..., D).

    log|det ∂y/∂v| = Σ [log((1 − 2α) / top) − log s − log(1 − s)].

    With α = 0 the range of the inverse is (0, top). With α > 0 it is slightly larger, from −α top / (1 − 2α) to
    top + α top / (1 − 2α); pixels at the edge then have moderate logits instead of a heavy tail, and a density in y
    has some mass outside [0, top].

    Args:
        top: the upper end of the values.
        alpha: α, at least 0 and below 1/2.
    """

    domain = constraints.real_vector  # values outside the interval above have no image
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, top: float, alpha: float = 0.05) -> None:
        super().__init__()
        self.top = top
        self.alpha = alpha

    def _call(self, x: Tensor) -> Tensor:
        return torch.logit(self._squash(x))

    def _inverse(self, y: Tensor) -> Tensor:
        return (torch.sigmoid(y) - self.alpha) * (self.top / (1 - 2 * self.alpha))

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        constant = math.log((1 - 2 * self.alpha) / self.top)
        # −log s − log(1 − s) for s = sigmoid(y), without rounding at either end
        return (constant + F.softplus(y) + F.softplus(-y)).sum(-1)

    def _squash(self, x: Tensor) -> Tensor:
        # Rounding may put v on the edge, where the logit is infinite: clamp to a value inside
        edge = torch.finfo(x.dtype).eps
        return (self.alpha + (1 - 2 * self.alpha) * x / self.top).clamp(edge, 1 - edge)


class Logit(UnconditionalTransform):
    """`LogitTransform` as the first layer of a flow over counts 0..total with noise in [0, 1) added.

    Args:
        total: the largest count; the noisy values end below total + 1.
        alpha: α, at least 0 and below 1/2.

    Raises:
        FlowvaeError: for an α outside [0, 1/2).

    References:
        Dinh et al. (2017), "Density estimation using Real NVP", section 4.1; with both ends kept away from 0
        and 1 as in Papamakarios et al. (2017).
    """

    def __init__(self, total: int, alpha: float = 0.05) -> None:
        if not 0 <= alpha < 0.5:
            raise FlowvaeError(f"alpha = {shown(alpha)}: must be at least 0 and below 0.5, such as 0.05.")
        settings: dict[str, Any] = {"top": float(total + 1), "alpha": float(alpha)}
        super().__init__(LogitTransform, **settings)
