"""Transforms of the first values of a row, for multi-scale flows."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Transform, constraints
from zuko.lazy import LazyTransform

__all__ = ["PartialTransform", "TransformOfPart"]


class TransformOfPart(Transform):
    """A transform of the first `size` values of a row (..., D); the others are unchanged.

    Args:
        transform: a transform of vectors of that size.
        size: number of values that are transformed.
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, transform: Transform, size: int) -> None:
        super().__init__()
        self.transform = transform
        self.size = size

    def _call(self, x: Tensor) -> Tensor:
        return torch.cat((self.transform(x[..., : self.size]), x[..., self.size :]), -1)

    def _inverse(self, y: Tensor) -> Tensor:
        return torch.cat((self.transform.inv(y[..., : self.size]), y[..., self.size :]), -1)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return self.transform.log_abs_det_jacobian(x[..., : self.size], y[..., : self.size])

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the value and its log-determinant in one pass."""
        y, log_det = self.transform.call_and_ladj(x[..., : self.size])  # type: ignore[attr-defined]  # zuko adds it
        return torch.cat((y, x[..., self.size :]), -1), log_det


class PartialTransform(LazyTransform):
    """A lazy transform of the first values, for the later levels of a multi-scale flow (Dinh et al. 2017).

    Args:
        transform: the lazy transform of the first values.
        size: number of values that are transformed.
    """

    def __init__(self, transform: LazyTransform, size: int) -> None:
        super().__init__()
        self.transform = transform
        self.size = size

    def forward(self, c: Tensor | None = None) -> TransformOfPart:
        return TransformOfPart(self.transform(c), self.size)

    @torch.no_grad()
    def start_from(self, z: Tensor) -> None:
        """Initialize the inner transform from data (N, D), if it has a `start_from`."""
        if hasattr(self.transform, "start_from"):
            self.transform.start_from(z[..., : self.size])
