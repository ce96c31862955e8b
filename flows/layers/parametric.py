"""Layers whose parameters are learned directly, or are linear in a context."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Transform
from zuko.lazy import LazyTransform

__all__ = ["ParametricTransform"]


class ParametricTransform(LazyTransform):
    """A transform with parameter tensors that are learned directly or, with a context c, are start + A c.

    A starts at zero, so that an amortized layer starts as the same map for every context: the initial map of the
    layer without a context.

    Args:
        make: function from the parameters, each of shape (..., *shape), to a transform over (..., D).
        start: initial values of the parameters.
        context: size of the context (0: none).

    References:
        van den Berg et al. (2018), "Sylvester Normalizing Flows for Variational Inference", section 4.
    """

    def __init__(self, make: Callable[..., Transform], start: Sequence[Tensor], context: int) -> None:
        super().__init__()
        self.make = make
        self.shapes = [tensor.shape for tensor in start]
        if context:
            flat = torch.cat([tensor.flatten() for tensor in start])
            self.linear = nn.Linear(context, len(flat))
            nn.init.zeros_(self.linear.weight)
            with torch.no_grad():
                self.linear.bias.copy_(flat)
        else:
            self.phi = nn.ParameterList(start)

    def forward(self, c: Tensor | None = None) -> Transform:
        """Return the transform for a context of shape (..., context)."""
        if not hasattr(self, "linear"):
            return self.make(*self.phi)
        flat = self.linear(c)
        parts = flat.split([math.prod(shape) for shape in self.shapes], dim=-1)
        batch = flat.shape[:-1]
        return self.make(*(part.reshape(batch + shape) for part, shape in zip(parts, self.shapes, strict=True)))
