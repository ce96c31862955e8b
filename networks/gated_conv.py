"""Gated convolutional encoders and decoders of images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from flowvae.networks.image_network import ImageNetworkSpec, Sides

__all__ = ["GatedConv"]

KERNEL = 5


@dataclass(frozen=True)
class GatedConv(ImageNetworkSpec, name="gated-conv"):
    """Gated convolutions (W ∗ x + b) ⊙ sigmoid(V ∗ x + c), the networks of the Sylvester flows paper.

    For each number of channels the encoder has two 5×5 convolutions, the second with stride 2. Then come one more 5×5
    convolution, and one whose kernel covers the whole remaining map and gives the features. The decoder mirrors this
    with transposed convolutions and ends in a 1×1 convolution without a gate. The defaults are the published settings,
    for 28×28; on larger images use more `channels`, because the kernel over the remaining map has most of the
    parameters.

    Args:
        channels: numbers of channels, from the largest feature map to the smallest; each one halves the sides.
        features: size of the encoder's feature vector, its output by default.

    Raises:
        FlowvaeError: for settings out of range.

    References:
        Dauphin, Fan, Auli & Grangier (2017), "Language Modeling with Gated Convolutional Networks"; van den Berg,
        Hasenclever, Tomczak & Welling (2018), "Sylvester Normalizing Flows for Variational Inference".

    >>> import torch
    >>> decoder = GatedConv((4, 8)).build(torch.Size((2,)), torch.Size((1, 28, 20)))
    >>> decoder(torch.zeros(5, 2)).shape
    torch.Size([5, 1, 28, 20])
    """

    features: int = 256

    def encoder(self, channels: int, sides: list[Sides]) -> list[nn.Module]:
        layers: list[nn.Module] = []
        for before, after in pairwise((channels, *self.channels)):
            layers += [*_convolution(before, after), *_convolution(after, after, stride=2)]
        last = self.channels[-1]
        layers += [*_convolution(last, last), nn.Flatten()]
        # a kernel over the whole map is a linear layer
        return [*layers, nn.Linear(last * math.prod(sides[-1]), 2 * self.features), nn.GLU(dim=1)]

    def decoder(self, code: int, channels: int, sides: list[Sides]) -> list[nn.Module]:
        first, last = self.channels[0], self.channels[-1]
        layers: list[nn.Module] = [nn.Unflatten(1, (code, 1, 1)), nn.ConvTranspose2d(code, 2 * last, sides[-1])]
        layers.append(nn.GLU(dim=1))
        maps = pairwise((*reversed(self.channels), first))
        for (small, large), (before, after) in zip(pairwise(reversed(sides)), maps, strict=True):
            layers += [*_transposed(before, before, small, small), *_transposed(before, after, small, large)]
        return [*layers, *_transposed(first, first, sides[0], sides[0]), nn.Conv2d(first, channels, 1)]


def _convolution(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(inputs, 2 * outputs, KERNEL, stride, padding=KERNEL // 2), nn.GLU(dim=1)]


def _transposed(inputs: int, outputs: int, small: Sides, large: Sides) -> list[nn.Module]:
    """Make a transposed convolution of stride 1 between maps of equal sides, of stride 2 otherwise."""
    stride = 1 if small == large else 2
    rest = [side - (stride * (before - 1) + 1) for before, side in zip(small, large, strict=True)]
    convolution = nn.ConvTranspose2d(
        inputs, 2 * outputs, KERNEL, stride, padding=KERNEL // 2, output_padding=(rest[0], rest[1])
    )
    return [convolution, nn.GLU(dim=1)]
