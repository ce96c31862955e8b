"""Whether a fit of a flow guide has reached its optimum: the distance that the location still has to go."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from flowvae.guides.automatic.affine import AffineLayer
from flowvae.inference.optim import NonFiniteError

__all__ = ["NotConvergedWarning", "RemainingShift", "remaining_shift"]

CLEARLY = 5  # standard errors by which a shift must exceed one standard deviation to be reported


class NotConvergedWarning(UserWarning):
    """The location of a fitted guide is clearly more than one standard deviation from its optimum."""


class RemainingShift(NamedTuple):
    """Estimated distance of a guide's location from its optimum, along the coordinate where it is clearest.

    Args:
        distance: in standard deviations of the guide.
        standard_error: of the distance.
    """

    distance: float
    standard_error: float

    @property
    def is_clear(self) -> bool:
        """Whether it is more than one standard deviation, beyond the noise of its estimate."""
        return self.distance > 1 + CLEARLY * self.standard_error


def remaining_shift(
    evaluate: Callable[[], object], pair: nn.Module, layer: AffineLayer, count: int
) -> RemainingShift | None:
    """Estimate how far the location of an affine layer is from its optimum, from gradients without steps.

    Near the optimum the gradient of the ELBO is g = Σ⁻¹ d, with d the way that the location loc still has to go and Σ
    the covariance of the posterior. For a guide N(loc, L Lᵀ) with L Lᵀ = Σ, Lᵀ g = L⁻¹ d: the way in standard
    deviations. A location that has stopped because the learning rate decayed to zero still has this gradient.

    Args:
        evaluate: computes the loss of new draws, in nats, and adds its gradients to those of the parameters.
        pair: model and guide, whose gradients are cleared.
        layer: the affine layer of the guide, of one dimension or more.
        count: number of evaluations; two or more.

    Returns:
        The estimate, or None if a loss or gradient is not finite.
    """
    ways = []
    with torch.no_grad():
        scale = layer.log_scale.exp()
        mixing = None if layer.lower is None else layer.lower.tril(-1)
    for _ in range(count):
        pair.zero_grad()
        try:
            evaluate()
        except NonFiniteError:
            break
        with torch.no_grad():
            grad = torch.zeros_like(layer.shift) if layer.shift.grad is None else layer.shift.grad
            way = scale * grad  # the gradient of the shift is Sᵀ g, and L = S diag(eˢ) (I + N)
            ways.append(way if mixing is None else way + way @ mixing)
    pair.zero_grad()
    if len(ways) < count or not torch.stack(ways).isfinite().all():
        return None
    found = torch.stack(ways).double()
    distance, error = found.mean(0).abs(), found.std(0) / count**0.5
    clearest = int((distance - CLEARLY * error).argmax())
    return RemainingShift(distance[clearest].item(), error[clearest].item())
