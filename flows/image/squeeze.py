"""The squeeze of an image, which trades space for channels."""

from __future__ import annotations

import torch
from torch import Tensor
from zuko.lazy import LazyTransform
from zuko.transforms import PermutationTransform

from flowvae.flows.image.shapes import Shape

__all__ = ["Squeeze", "squeeze_order", "squeezed"]


class Squeeze(LazyTransform):
    """Squeeze of every 2×2 block of pixels into four channels: (c, h, w) → (4c, h/2, w/2), on flat rows (..., chw).

    It doubles the receptive field of a later convolution, and lets a channel coupling split neighbouring pixels. It
    is a permutation: its log-determinant is 0.

    Args:
        shape: channels, height, width before the squeeze; height and width are even.

    References:
        Dinh, Sohl-Dickstein & Bengio (2017), "Density estimation using Real NVP", section 3.6.
    """

    order: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.register_buffer("order", squeeze_order(shape))

    def forward(self, c: Tensor | None = None) -> PermutationTransform:
        return PermutationTransform(self.order)


def squeezed(shape: Shape) -> Shape:
    """Return the shape after a squeeze.

    >>> squeezed((1, 8, 8))
    (4, 4, 4)
    """
    channels, height, width = shape
    return 4 * channels, height // 2, width // 2


def squeeze_order(shape: Shape) -> Tensor:
    """Compute the index into the flat image for each value of the flat squeezed image, shape (chw,).

    >>> squeeze_order((1, 2, 4)).tolist()
    [0, 2, 1, 3, 4, 6, 5, 7]
    """
    channels, height, width = shape
    index = torch.arange(channels * height * width).reshape(channels, height // 2, 2, width // 2, 2)
    return index.permute(0, 2, 4, 1, 3).flatten()
