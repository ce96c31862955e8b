"""Convolutional encoders and decoders of images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from flowvae.core.errors import check_choice
from flowvae.networks.image_network import ImageNetworkSpec, Normalization, Sides, normalized

__all__ = ["Conv"]


@dataclass(frozen=True)
class Conv(ImageNetworkSpec, name="conv"):
    """Convolutions with ReLU.

    The encoder halves the sides of its feature maps by strides, flattens the last one and ends in a linear layer. The
    decoder is its mirror image: a linear layer to the smallest map, then nearest-neighbour upsampling and convolutions.
    For 28×28 images the maps have sides 14 and 7.

    Args:
        channels: numbers of channels of the feature maps, from the largest map to the smallest; each map halves the
            sides of the one before it, the first those of the image.
        features: size of the encoder's feature vector, its output by default.
        normalization: "group" normalizes groups of channels before each activation. Unlike batch normalization it
            treats every data point independently. "none": no normalization.

    Raises:
        FlowvaeError: for settings out of range.

    References:
        Wu & He (2018), "Group Normalization".

    >>> import torch
    >>> encoder = Conv((16, 32)).build(torch.Size((3, 32, 32)))
    >>> encoder(torch.zeros(5, 3, 32, 32)).shape
    torch.Size([5, 128])
    """

    normalization: Normalization = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "normalization", ("none", "group"))

    def encoder(self, channels: int, sides: list[Sides]) -> list[nn.Module]:
        layers: list[nn.Module] = []
        for before, after in pairwise((channels, *self.channels)):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), *self._activation(after)]
        values = self.channels[-1] * math.prod(sides[-1])
        return [*layers, nn.Flatten(), nn.Linear(values, self.features), nn.ReLU()]

    def decoder(self, code: int, channels: int, sides: list[Sides]) -> list[nn.Module]:
        image, *larger, smallest = sides
        first = (self.channels[-1], *smallest)
        layers: list[nn.Module] = [nn.Linear(code, math.prod(first)), nn.Unflatten(1, first)]
        layers += self._activation(self.channels[-1])
        for side, (before, after) in zip(reversed(larger), pairwise(reversed(self.channels)), strict=True):
            layers += [nn.Upsample(side), nn.Conv2d(before, after, 3, padding=1), *self._activation(after)]
        return [*layers, nn.Upsample(image), nn.Conv2d(self.channels[0], channels, 3, padding=1)]

    def _activation(self, channels: int) -> list[nn.Module]:
        return [*normalized(self.normalization, channels), nn.ReLU()]
