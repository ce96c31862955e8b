"""Base class of image networks: sizes of feature maps, conditions, and normalization."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Size, Tensor, nn

from flowvae.core.errors import FlowvaeError, check_int, check_widths
from flowvae.core.parts import NetworkSpec
from flowvae.networks.mlp import ConcatCondition

__all__ = ["ImageNetworkSpec", "Normalization", "Sides", "normalized"]

Normalization = Literal["none", "group"]
Sides = tuple[int, int]  # height and width

GROUPS = 8  # maximum number of groups of a group normalization
GROUP = 4  # minimum number of channels per group: on a 1×1 map, a group of one value would always be normalized to 0


@dataclass(frozen=True)
class ImageNetworkSpec(NetworkSpec):
    """Base class of settings of networks between images (C, H, W) and vectors.

    An encoder ends in a vector of features or, with given `outputs`, in a further linear layer. A decoder ends in an
    image. Images may have any size, odd ones too: each feature map has half of the sides of the one before it, rounded
    up. A condition enters an encoder as constant channels of the image, and a decoder concatenated with the code.

    Args:
        channels: numbers of channels of the feature maps, from the largest map to the smallest.
        features: size of the encoder's feature vector, its output by default.

    Raises:
        FlowvaeError: for settings out of range.
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

    @abstractmethod
    def encoder(self, channels: int, sides: list[Sides]) -> list[nn.Module]:
        """Make the layers of an encoder, (N, channels, *sides[0]) → (N, features).

        Args:
            channels: number of channels of an image.
            sides: height and width of the image, and then of each feature map.
        """

    @abstractmethod
    def decoder(self, code: int, channels: int, sides: list[Sides]) -> list[nn.Module]:
        """Make the layers of a decoder, (N, code) → (N, channels, *sides[0]).

        Args:
            code: size of a code plus that of the condition.
            channels: number of channels of an image.
            sides: height and width of the image, and then of each feature map.
        """

    def _encoder(self, inputs: Size, outputs: Size | None, context: int) -> nn.Module:
        layers = self.encoder(inputs[0] + context, self._sides(inputs))
        if outputs is not None:
            layers.append(nn.Linear(self.features, math.prod(outputs)))
            if len(outputs) != 1:
                layers.append(nn.Unflatten(1, outputs))
        return ConditionChannels(nn.Sequential(*layers)) if context else nn.Sequential(*layers)

    def _decoder(self, inputs: Size, outputs: Size, context: int) -> nn.Module:
        layers = self.decoder(math.prod(inputs) + context, outputs[0], self._sides(outputs))
        if context:
            return ConcatCondition(nn.Sequential(*layers), len(inputs))
        return nn.Sequential(*([nn.Flatten()] if len(inputs) > 1 else []), *layers)

    def _sides(self, image: Size) -> list[Sides]:
        height, width = image[1:]
        sides = [(height, width)]
        for _ in self.channels:
            height, width = math.ceil(height / 2), math.ceil(width / 2)
            sides.append((height, width))
        return sides


class ConditionChannels(nn.Module):
    """A network of an image (N, C, H, W) and a condition (N, C'), which becomes constant channels of the image."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        channels = condition[..., None, None].expand(len(x), -1, *x.shape[2:])
        return self.network(torch.cat((x, channels), dim=1))


def normalized(normalization: Normalization, channels: int) -> list[nn.Module]:
    """Make the normalization layer for a number of channels, if there is one; fewer than four are not normalized."""
    if normalization == "none" or channels < GROUP:
        return []
    groups = max(g for g in range(1, GROUPS + 1) if channels % g == 0 and channels // g >= GROUP)
    return [nn.GroupNorm(groups, channels)]
