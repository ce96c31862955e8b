"""Convolutional encoders and decoders of images, of any height and width."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Size, Tensor, nn

from flowvae.core.errors import FlowvaeError, check_bool, check_choice, check_int, check_widths
from flowvae.core.parts import NetworkSpec
from flowvae.networks.mlp import ConcatCondition

__all__ = ["Conv", "ImageNetworkSpec"]

Normalization = Literal["none", "group"]

GROUPS = 8  # maximum number of groups of a group normalization
GROUP = 4  # minimum number of channels per group: on a 1×1 map, a group of one value would always be normalized to 0


@dataclass(frozen=True)
class ImageNetworkSpec(NetworkSpec):
    """Settings of a network between images (C, H, W) and vectors.

    An encoder halves the sides (rounding up) before each of its feature maps, flattens the last one and ends in a
    linear layer. A decoder is its mirror image: a linear layer to a feature map, then nearest-neighbour upsampling
    and convolutions. Images may have any size, odd ones too. A condition enters an encoder as constant channels of
    the image, and a decoder concatenated with the code.

    Args:
        channels: numbers of channels of the feature maps, from the largest map to the smallest.
        features: number of outputs of an encoder, if none are given.
    """

    channels: tuple[int, ...] = (32, 64)
    features: int = 128

    def __post_init__(self) -> None:
        check_widths(self, "channels")
        check_int(self, "features")

    def build(self, inputs: Size, outputs: Size | None = None, context: int = 0) -> nn.Module:
        """Build the network, (N, *inputs) → (N, *outputs): a decoder if the outputs are images (C, H, W).

        Args:
            inputs: a decoder's code, of any event shape; or an encoder's image (C, H, W).
            outputs: a decoder's image (C, H, W); or an encoder's outputs of another event shape; None: (features,).
            context: size of a condition that it also reads; 0: none.

        Raises:
            FlowvaeError: if neither inputs nor outputs are images.
        """
        if outputs is not None and len(outputs) == 3:
            network = self._decoder(inputs, outputs, context)
        elif len(inputs) == 3:
            network = self._encoder(inputs, outputs, context)
        else:
            label, given = type(self).__name__, "" if outputs is None else f" and outputs {tuple(outputs)}"
            raise FlowvaeError(
                f"{label}: inputs {tuple(inputs)}{given}; one must be an image (C, H, W). Use MLP for other data, or "
                "give images their three axes."
            )
        network.inputs = Size(inputs)  # type: ignore[assignment]
        return network

    def _encoder(self, inputs: Size, outputs: Size | None, context: int) -> nn.Module:
        layers: list[nn.Module] = []
        for before, after in pairwise((inputs[0] + context, *self.channels)):
            layers += self.stage(before, after, stride=2)
        values = self.channels[-1] * math.prod(self._sides(inputs)[-1])
        layers += [*self.closing(self.channels[-1]), nn.Flatten(), nn.Linear(values, self.features), nn.ReLU()]
        if outputs is not None:
            layers.append(nn.Linear(self.features, math.prod(outputs)))
            if len(outputs) != 1:
                layers.append(nn.Unflatten(1, outputs))
        return ConditionChannels(nn.Sequential(*layers)) if context else nn.Sequential(*layers)

    def _decoder(self, inputs: Size, outputs: Size, context: int) -> nn.Module:
        *larger, smallest = self._sides(outputs)
        first = (self.channels[-1], *smallest)
        layers: list[nn.Module] = [nn.Linear(math.prod(inputs) + context, math.prod(first)), nn.Unflatten(1, first)]
        layers += self.opening()
        for sides, (before, after) in zip(reversed(larger[1:]), pairwise(reversed(self.channels)), strict=True):
            layers += [nn.Upsample(sides), *self.stage(before, after, stride=1)]
        layers += [*self.closing(self.channels[0]), nn.Upsample(larger[0])]
        layers.append(nn.Conv2d(self.channels[0], outputs[0], 3, padding=1))
        if context:
            return ConcatCondition(nn.Sequential(*layers), len(inputs))
        return nn.Sequential(*([nn.Flatten()] if len(inputs) > 1 else []), *layers)

    def _sides(self, image: Size) -> list[tuple[int, int]]:
        """Compute height and width of an image, and of each feature map."""
        height, width = image[1:]
        sides = [(height, width)]
        for _ in self.channels:
            height, width = math.ceil(height / 2), math.ceil(width / 2)
            sides.append((height, width))
        return sides

    @abstractmethod
    def stage(self, inputs: int, outputs: int, stride: int) -> list[nn.Module]:
        """Make the layers from one feature map to the next; stride 2 halves the sides, 1 keeps them."""

    def opening(self) -> list[nn.Module]:
        """Make the layers after the linear layer of a decoder."""
        return []

    def closing(self, channels: int) -> list[nn.Module]:
        """Make the layers after the last feature map, which has `channels` channels."""
        return []


@dataclass(frozen=True)
class Conv(ImageNetworkSpec, name="conv"):
    """Convolutions with ReLU, or gated: (W ∗ x + b) ⊙ sigmoid(V ∗ x + c).

    Args:
        channels: numbers of channels of the feature maps, from the largest map to the smallest; each map halves the
            sides of the one before it, the first those of the image.
        features: number of outputs of an encoder, if none are given.
        gated: whether each convolution is gated, which doubles its parameters.
        normalization: "group" normalizes groups of channels before each activation. Unlike batch normalization it
            treats every data point independently.

    References:
        Dauphin, Fan, Auli & Grangier (2017), "Language Modeling with Gated Convolutional Networks"; Wu & He (2018),
        "Group Normalization".

    >>> encoder = Conv((16, 32)).build(Size((3, 32, 32)))
    >>> encoder(torch.zeros(5, 3, 32, 32)).shape
    torch.Size([5, 128])
    """

    gated: bool = False
    normalization: Normalization = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bool(self, "gated")
        check_choice(self, "normalization", ("none", "group"))

    def stage(self, inputs: int, outputs: int, stride: int) -> list[nn.Module]:
        width = 2 * outputs if self.gated else outputs
        return [nn.Conv2d(inputs, width, 3, stride, padding=1), *self._activation(width)]

    def opening(self) -> list[nn.Module]:
        return [*normalized(self.normalization, self.channels[-1]), nn.ReLU()]

    def _activation(self, width: int) -> list[nn.Module]:
        return [*normalized(self.normalization, width), nn.GLU(dim=1) if self.gated else nn.ReLU()]


class ConditionChannels(nn.Module):
    """A network of an image and a condition, which becomes constant channels: (N, C, H, W) and (N, C') in."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        channels = condition[..., None, None].expand(len(x), -1, *x.shape[2:])
        return self.network(torch.cat((x, channels), dim=1))


def normalized(normalization: Normalization, channels: int) -> list[nn.Module]:
    """Make the normalization layer of so many channels, if there is one; fewer than four are not normalized."""
    if normalization == "none" or channels < GROUP:
        return []
    groups = max(g for g in range(1, GROUPS + 1) if channels % g == 0 and channels // g >= GROUP)
    return [nn.GroupNorm(groups, channels)]
