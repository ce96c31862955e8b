"""Residual networks of images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn

from flowvae.core.errors import MOST_LAYERS, FlowvaeError, check_bool, check_choice, check_int, check_number, shown
from flowvae.networks.image_network import ImageNetworkSpec, Normalization, Sides, normalized

__all__ = ["ResNet"]

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "elu": nn.ELU}


@dataclass(frozen=True)
class ResNet(ImageNetworkSpec, name="resnet"):
    """Residual blocks with pre-activation on each feature map: h + W₂ ∗ a(W₁ ∗ a(h)).

    a is ReLU or ELU, after group normalization if there is one. There is no batch normalization, so the output for a
    data point never depends on the batch. The encoder halves the sides by strided convolutions, the decoder doubles
    them by nearest-neighbour upsampling and a convolution.

    Without a `stem`, the decoder's image is a linear function of an activated map of half its sides. This is cheap, but
    published networks have blocks on maps of the image's size. `ResNet((32, 64, 128), 64, blocks=1, stem=16)` is close
    to the VAE of Durkan et al. at 28×28 (on Omniglot with `dropout=0.2`), but has one more block on the smallest map,
    and no residual connections past the strides. ELU is the activation of Kingma et al. and Chen et al.; their weight
    normalization with data-dependent initialization is left out here.

    Args:
        channels: numbers of channels of the feature maps, from the largest map to the smallest; each map halves the
            sides of the one before it, the first those of the image.
        features: size of the encoder's feature vector, its output by default.
        blocks: number of residual blocks on each feature map.
        normalization: "none" or "group".
        activation: "relu" or "elu".
        stem: number of channels of a further feature map, of the size of the image; 0: none.
        dropout: dropout probability of the inputs of each block's second convolution.
        zero_init: whether the last convolution of each block starts at 0, so that all blocks start as the identity.

    Raises:
        FlowvaeError: for settings out of range.

    References:
        He, Zhang, Ren & Sun (2016), "Identity Mappings in Deep Residual Networks"; Wu & He (2018), "Group
        Normalization"; Kingma et al. (2016), "Improving Variational Inference with Inverse Autoregressive Flow"; Chen
        et al. (2017), "Variational Lossy Autoencoder"; Durkan et al. (2019), "Neural Spline Flows".

    >>> import torch
    >>> ResNet((8,), blocks=1).build(torch.Size((1, 8, 8)))(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 128])
    """

    blocks: int = 2
    normalization: Normalization = "none"
    activation: Literal["relu", "elu"] = "relu"
    stem: int = 0
    dropout: float = 0.0
    zero_init: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_int(self, "blocks", most=MOST_LAYERS)
        check_choice(self, "normalization", ("none", "group"))
        check_choice(self, "activation", ACTIVATIONS)
        check_int(self, "stem", least=0)
        check_number(self, "dropout", least=0)
        if self.dropout >= 1:
            raise FlowvaeError(f"ResNet.dropout = {shown(self.dropout)}: must be below 1, a probability.")
        check_bool(self, "zero_init")

    def encoder(self, channels: int, sides: list[Sides]) -> list[nn.Module]:
        layers: list[nn.Module] = []
        if self.stem:
            layers += [nn.Conv2d(channels, self.stem, 3, padding=1), *self._blocks(self.stem)]
        for before, after in pairwise((self.stem or channels, *self.channels)):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), *self._blocks(after)]
        last = self.channels[-1]
        layers += [*self._activated(last), nn.Flatten(), nn.Linear(last * math.prod(sides[-1]), self.features)]
        return [*layers, ACTIVATIONS[self.activation]()]

    def decoder(self, code: int, channels: int, sides: list[Sides]) -> list[nn.Module]:
        image, *larger, smallest = sides
        first = (self.channels[-1], *smallest)
        layers: list[nn.Module] = [nn.Linear(code, math.prod(first)), nn.Unflatten(1, first)]
        layers += self._blocks(self.channels[-1])
        for side, (before, after) in zip(reversed(larger), pairwise(reversed(self.channels)), strict=True):
            layers += [nn.Upsample(side), nn.Conv2d(before, after, 3, padding=1), *self._blocks(after)]
        last = self.channels[0]
        if self.stem:
            layers += [nn.Upsample(image), nn.Conv2d(last, self.stem, 3, padding=1), *self._blocks(self.stem)]
            return [*layers, *self._activated(self.stem), nn.Conv2d(self.stem, channels, 3, padding=1)]
        return [*layers, *self._activated(last), nn.Upsample(image), nn.Conv2d(last, channels, 3, padding=1)]

    def _blocks(self, channels: int) -> list[nn.Module]:
        return [_Block(self, channels) for _ in range(self.blocks)]

    def _activated(self, channels: int) -> list[nn.Module]:
        return [*normalized(self.normalization, channels), ACTIVATIONS[self.activation]()]


class _Block(nn.Module):
    """Residual block, (N, channels, H, W) → the same shape."""

    def __init__(self, settings: ResNet, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for number in range(2):
            layers += settings._activated(channels)
            if number and settings.dropout:
                layers.append(nn.Dropout(settings.dropout))
            layers.append(nn.Conv2d(channels, channels, 3, padding=1))
        if settings.zero_init:
            for parameter in layers[-1].parameters():
                nn.init.zeros_(parameter)
        self.residual = nn.Sequential(*layers)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.residual(h)
