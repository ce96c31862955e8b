"""The invertible 1×1 convolution."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Transform, constraints
from zuko.lazy import LazyTransform

from flowvae.core.errors import FlowvaeError
from flowvae.flows.image.shapes import Shape

__all__ = ["Convolution1x1", "Convolution1x1Transform"]


class Convolution1x1Transform(Transform):
    """1×1 convolution u = P L U z at every pixel, on flat rows (..., chw); log|det| = h w Σ log|U_ii|.

    Args:
        shape: channels, height, width.
        order: the permutation P as indices, shape (c,): output channel i is row order[i] of L U z.
        lower: L, unit lower triangular, shape (c, c).
        upper: U, upper triangular, shape (c, c).
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, shape: Shape, order: Tensor, lower: Tensor, upper: Tensor) -> None:
        super().__init__()
        self.shape = shape
        self.order = order
        self.lower = lower
        self.upper = upper

    def _call(self, x: Tensor) -> Tensor:
        channels = x.unflatten(-1, (self.shape[0], -1))
        return (self.lower @ (self.upper @ channels))[..., self.order, :].flatten(-2)

    def _inverse(self, y: Tensor) -> Tensor:
        channels = y.unflatten(-1, (self.shape[0], -1))[..., self.order.argsort(), :]
        half = torch.linalg.solve_triangular(self.lower, channels, upper=False, unitriangular=True)
        return torch.linalg.solve_triangular(self.upper, half, upper=True).flatten(-2)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        pixels = self.shape[1] * self.shape[2]
        return (pixels * self.upper.diagonal().abs().log().sum()).expand(x.shape[:-1])


class Convolution1x1(LazyTransform):
    """Invertible 1×1 convolution: the same learned matrix W = P L U mixes the channels of every pixel.

    P and the signs of U's diagonal are fixed; L, U above its diagonal and log|U_ii| are learned, so the
    determinant costs O(c) instead of O(c³), and W cannot become singular. It starts as the matrix `start`, by default
    the permutation that swaps the halves of the channels (the next coupling transforms the half that this one kept).

    Args:
        shape: channels, height, width; two channels or more.
        start: initial W, shape (c, c), such as a random rotation; None: the permutation above.

    Raises:
        FlowvaeError: for one channel, which has nothing to mix.

    References:
        Kingma & Dhariwal (2018), "Glow: Generative Flow with Invertible 1×1 Convolutions", section 3.2.
    """

    order: Tensor
    sign: Tensor
    below: Tensor

    def __init__(self, shape: Shape, start: Tensor | None = None) -> None:
        super().__init__()
        channels = shape[0]
        if channels < 2:
            raise FlowvaeError(f"channels = {channels}: a 1×1 convolution mixes channels; squeeze the image first.")
        self.shape = shape
        start = torch.eye(channels).roll(channels // 2, 0) if start is None else start
        permutation, lower, upper = torch.linalg.lu(start)
        index = torch.tril_indices(channels, channels, offset=-1)
        self.register_buffer("order", permutation.argmax(1))
        self.register_buffer("sign", upper.diagonal().sign())
        self.register_buffer("below", index)
        self.lower = nn.Parameter(lower[index[0], index[1]])
        self.upper = nn.Parameter(upper[index[1], index[0]])
        self.log_diagonal = nn.Parameter(upper.diagonal().abs().log())

    def forward(self, c: Tensor | None = None) -> Convolution1x1Transform:
        row, column = self.below
        lower = torch.eye(self.shape[0], dtype=self.lower.dtype, device=self.lower.device)
        lower[row, column] = self.lower
        upper = torch.diag(self.sign * self.log_diagonal.exp())
        upper[column, row] = self.upper
        return Convolution1x1Transform(self.shape, self.order, lower, upper)
