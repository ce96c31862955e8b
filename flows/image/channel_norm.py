"""Activation normalization of images: one scale and one shift per channel."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import AffineTransform
from zuko.lazy import LazyTransform

from flowvae.flows.image.shapes import Shape

__all__ = ["ChannelNorm"]

LEAST = 1e-3  # minimum standard deviation of a channel, so that its initial scale is at most 1000


class ChannelNorm(LazyTransform):
    """Actnorm: u = exp(s_c) z + b_c for channel c, on flat rows (..., chw).

    log|det ∂u/∂z| = h w Σ_c s_c. Starts as the identity; `start_from` sets scale and shift from data.

    Args:
        shape: channels, height, width.

    References:
        Kingma & Dhariwal (2018), "Glow: Generative Flow with Invertible 1×1 Convolutions", section 3.1.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.log_scale = nn.Parameter(torch.zeros(shape[0]))
        self.shift = nn.Parameter(torch.zeros(shape[0]))

    def forward(self, c: Tensor | None = None) -> AffineTransform:
        pixels = self.shape[1] * self.shape[2]
        scale = self.log_scale.exp().repeat_interleave(pixels)
        return AffineTransform(self.shift.repeat_interleave(pixels), scale, event_dim=1)

    @torch.no_grad()
    def start_from(self, z: Tensor) -> None:
        """Set scale and shift so that outputs for data z (N, chw) have mean 0 and variance 1 in each channel."""
        by_channel = z.unflatten(-1, self.shape).movedim(-3, 0).flatten(1)
        scale = 1 / by_channel.std(1).clamp_min(LEAST)
        self.log_scale.copy_(scale.log())
        self.shift.copy_(-by_channel.mean(1) * scale)
