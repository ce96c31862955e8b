"""Autoregressive networks, from x to the parameters of p(x_i | x_1, …, x_{i−1}) for all i in one pass."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Size, Tensor, nn

from flowvae.core.errors import FlowvaeError
from flowvae.core.registry import Spec

__all__ = ["CausalNetwork", "CausalSpec", "gated"]


class CausalSpec(Spec, ABC, kind="causal"):
    """Settings of an autoregressive network."""

    @abstractmethod
    def build(self, shape: Size, parameters: int, context: int = 0) -> CausalNetwork:
        """Build the network of data in raster order, (..., D) → (..., D, P), where D is the number of values.

        Args:
            shape: event shape of the data, such as (64,) or (1, 8, 8).
            parameters: P, the number of parameters of the distribution of one value.
            context: C, the width of a context on which every output depends; 0: none.

        Raises:
            FlowvaeError: if the network needs an image and the data are not images.
        """


class CausalNetwork(nn.Module, ABC):
    """A network whose output i depends on x_j for j < i only (raster order), and on the whole context.

    Args:
        features: D, the number of values of a data point.
        parameters: P, the number of parameters per value.
        context: C, the width of the context; 0: none.
    """

    def __init__(self, features: int, parameters: int, context: int) -> None:
        super().__init__()
        self.features = features
        self.parameters_each = parameters
        self.context_features = context

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Compute parameters (..., D, P) from data (..., D) and context (..., C), whose batch shapes broadcast.

        Raises:
            FlowvaeError: for another number of columns, or a context that is missing or unexpected.
        """
        batch = x.shape[:-1]
        if x.shape[-1:] != (self.features,):
            raise FlowvaeError(f"x: shape {tuple(x.shape)}; must be (..., {self.features}), as the network was built.")
        if (self.context_features > 0) != (context is not None):
            given = "none given" if context is None else f"one of shape {tuple(context.shape)} given"
            wanted = f"must be (..., {self.context_features})" if self.context_features else "the network takes none"
            raise FlowvaeError(f"context: {given}; {wanted}. Build the network with that context.")
        if context is not None:
            if context.shape[-1:] != (self.context_features,):
                raise FlowvaeError(f"context: shape {tuple(context.shape)}; must be (..., {self.context_features}).")
            batch = torch.broadcast_shapes(batch, context.shape[:-1])
            context = context.expand(*batch, -1).reshape(-1, self.context_features)
        rows = x.expand(*batch, -1).reshape(-1, self.features)
        return self.rows(rows, context).reshape(*batch, self.features, self.parameters_each)

    @abstractmethod
    def rows(self, x: Tensor, context: Tensor | None) -> Tensor:
        """Compute parameters (N, D, P) from data (N, D) and context (N, C)."""


def gated(h: Tensor) -> Tensor:
    """Apply the gated activation tanh(a) ⊙ σ(b) of h = (a, b), channels halved: (N, 2C, ...) → (N, C, ...).

    References:
        van den Oord et al. (2016), "Conditional image generation with PixelCNN decoders".
    """
    a, b = h.chunk(2, dim=1)
    return a.tanh() * b.sigmoid()
