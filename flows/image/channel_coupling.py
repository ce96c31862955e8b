"""Affine coupling of an image's channels, with a small convolutional network."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from zuko.lazy import LazyTransform
from zuko.transforms import CouplingTransform, DependentTransform, MonotonicAffineTransform

from flowvae.core.errors import FlowvaeError
from flowvae.flows.image.shapes import Shape

__all__ = ["ChannelCoupling"]


class ChannelCoupling(LazyTransform):
    """Affine coupling of channels, u_b = exp(s(z_a)) ⊙ z_b + t(z_a), u_a = z_a, with a the first half, b the second.

    It acts on flat rows (..., chw), in which the first half of the channels is the first half of the row;
    log|det ∂u/∂z| = Σ s. The last layer of the network starts at zero, so the coupling starts as the identity.

    Args:
        shape: channels, height, width; an even number of channels.
        hidden_channels: number of channels of the network's hidden layers; 0: a single convolution.
        context: size of a context that the network also reads, the same at every pixel; 0: none.

    Raises:
        FlowvaeError: for an odd number of channels.

    References:
        Dinh, Sohl-Dickstein & Bengio (2017); the network is that of Kingma & Dhariwal (2018).
    """

    mask: Tensor

    def __init__(self, shape: Shape, hidden_channels: int, context: int = 0) -> None:
        super().__init__()
        channels, height, width = shape
        if channels % 2:
            raise FlowvaeError(f"channels = {channels}: a coupling needs two halves; squeeze the image first.")
        self.half: Shape = (channels // 2, height, width)
        self.register_buffer("mask", torch.arange(channels * height * width) < channels * height * width // 2)
        self.hyper = _network(channels // 2 + context, channels, hidden_channels)
        for parameter in self.hyper[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, c: Tensor | None = None) -> CouplingTransform:
        return CouplingTransform(partial(self._affine, c), self.mask)

    def _affine(self, c: Tensor | None, kept: Tensor) -> DependentTransform:
        image = kept.unflatten(-1, self.half)
        if c is not None:
            batch = torch.broadcast_shapes(kept.shape[:-1], c.shape[:-1])
            planes = c[..., None, None].expand(*batch, c.shape[-1], *self.half[1:])
            image = torch.cat((image.expand(*batch, *self.half), planes), -3)
        batch = image.shape[:-3]
        shift, log_scale = self.hyper(image.reshape(-1, *image.shape[-3:])).flatten(1).reshape(*batch, -1).chunk(2, -1)
        return DependentTransform(MonotonicAffineTransform(shift, log_scale), 1)


def _network(inputs: int, outputs: int, hidden: int) -> nn.Sequential:
    if not hidden:
        return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1))
    return nn.Sequential(
        nn.Conv2d(inputs, hidden, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(hidden, hidden, 1),
        nn.ReLU(),
        nn.Conv2d(hidden, outputs, 3, padding=1),
    )
