"""Masks of coupling layers: the half of the features that a layer keeps."""

from __future__ import annotations

import torch
from torch import Tensor

from flowvae.flows.image.shapes import image_of

__all__ = ["MASKS", "coupling_mask"]

MASKS = ("alternating", "halves", "checkerboard", "channel")


def coupling_mask(name: str, features: int, image_shape: tuple[int, int] | None = None, owner: object = None) -> Tensor:
    """Make a boolean mask (features,): True for kept, False for transformed features; `~mask` swaps the roles.

    | name | True where |
    | --- | --- |
    | alternating | the index is even |
    | halves | the index is in the first half |
    | checkerboard | row + column of the pixel is odd |
    | channel | the channel is in the first half, after a 2×2 squeeze (the first two of a pixel's four channels) |

    The last two are the masks of Dinh et al. (2017) for images, and need data that are images. A squeeze turns
    each 2×2 block of pixels into four channels, so the channel mask keeps every other row of the image.

    Args:
        name: one of `MASKS`.
        features: D.
        image_shape: (height, width) for the image masks; None: a square image of one channel.
        owner: the flow, named in error messages.

    Raises:
        FlowvaeError: for an image mask if the data are not images of even height and width.

    >>> coupling_mask("checkerboard", 4).int().tolist()
    [0, 1, 1, 0]
    """
    index = torch.arange(features)
    if name == "alternating":
        return index % 2 == 0
    if name == "halves":
        return index < features // 2
    _, _, width = image_of(owner, features, image_shape, divisor=2)
    # height is even, so a channel begins on an even row: rows may be counted through all channels
    row, column = index // width, index % width
    return (row + column) % 2 == 1 if name == "checkerboard" else row % 2 == 0
