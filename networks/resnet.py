"""Residual networks of images."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from flowvae.core.errors import MOST_LAYERS, check_choice, check_int
from flowvae.networks.conv import ImageNetworkSpec, Normalization, normalized

__all__ = ["ResNet"]


@dataclass(frozen=True)
class ResNet(ImageNetworkSpec, name="resnet"):
    """Residual blocks with pre-activation after each change of size: h + W₂ ∗ a(W₁ ∗ a(h)).

    a is ReLU, after group normalization if there is one. There is no batch normalization, so that the output for a
    data point never depends on the batch.

    Args:
        channels: numbers of channels of the feature maps, from the largest map to the smallest; each map halves the
            sides of the one before it, the first those of the image.
        features: number of outputs of an encoder, if none are given.
        blocks: number of residual blocks on each feature map.
        normalization: "group" or "none".

    References:
        He, Zhang, Ren & Sun (2016), "Identity Mappings in Deep Residual Networks"; Wu & He (2018), "Group
        Normalization".

    >>> import torch
    >>> ResNet((8,), blocks=1).build(torch.Size((1, 8, 8)))(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 128])
    """

    blocks: int = 2
    normalization: Normalization = "group"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_int(self, "blocks", most=MOST_LAYERS)
        check_choice(self, "normalization", ("none", "group"))

    def stage(self, inputs: int, outputs: int, stride: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, stride, padding=1), *self._blocks(outputs)]

    def opening(self) -> list[nn.Module]:
        return self._blocks(self.channels[-1])

    def _blocks(self, channels: int) -> list[nn.Module]:
        return [_Block(channels, self.normalization) for _ in range(self.blocks)]

    def closing(self, channels: int) -> list[nn.Module]:
        return [*normalized(self.normalization, channels), nn.ReLU()]


class _Block(nn.Module):
    """Residual block, (N, channels, H, W) → the same shape."""

    def __init__(self, channels: int, normalization: Normalization) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [*normalized(normalization, channels), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1)]
        self.residual = nn.Sequential(*layers)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.residual(h)
