"""The Glow flow of images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Size, Tensor
from zuko.lazy import LazyComposedTransform, LazyTransform

from flowvae.core.errors import MOST_LAYERS, FlowvaeError, check_bool, check_int
from flowvae.core.parts import Cost
from flowvae.flows.image.channel_coupling import ChannelCoupling
from flowvae.flows.image.channel_norm import ChannelNorm
from flowvae.flows.image.convolution import Convolution1x1
from flowvae.flows.image.shapes import check_image_setting, image_of
from flowvae.flows.image.squeeze import Squeeze, squeezed
from flowvae.flows.layers.partial_transform import PartialTransform
from flowvae.flows.spec import FlowSpec

__all__ = ["Glow", "initialize_from_data"]


@dataclass(frozen=True)
class Glow(FlowSpec, name="glow"):
    r"""Glow: levels of a squeeze and steps of actnorm, invertible 1×1 convolution and affine coupling.

    A level squeezes (c, h, w) → (4c, h/2, w/2), applies its steps, and passes the first half of the channels on
    to the next level. The other half is factored out: its density is a Gaussian N(μ(kept), σ²(kept)), with μ and σ
    from one convolution of the kept half. That Gaussian is written as one more coupling, u = (z − μ)/σ, so the
    whole flow has base N(0, I) and is one transform of flat rows (..., D), normalizing when called.

    It starts as a permutation of the pixels (see `Convolution1x1`) or, with `rotate`, as rotations of the channels;
    log|det| = 0. `initialize_from_data` sets the actnorms from data, as in the paper; this is never done implicitly.

    Args:
        image_shape: (height, width), divisible by 2^levels; none: a square image of one channel.
        levels: number of levels, each with a squeeze.
        steps: number of steps (actnorm, convolution and coupling) per level.
        hidden_channels: number of channels of the hidden layers of each coupling's network.
        rotate: whether each 1×1 convolution starts as a random rotation (as in the paper) instead of a swap
            of the channels' halves.

    Raises:
        FlowvaeError: for settings out of range.

    References:
        Kingma & Dhariwal (2018), "Glow: Generative Flow with Invertible 1×1 Convolutions".

    >>> Glow(levels=2, steps=4).cost(features=64)
    Cost(density=9, sample=9, sample_and_density=18)
    """

    title: ClassVar[str] = "image flow: actnorm, 1×1 convolution, coupling"
    paper: ClassVar[str] = "Kingma & Dhariwal 2018"
    roles: ClassVar[tuple[str, ...]] = ("prior",)
    why_not: ClassVar[str] = "it acts on images (C, H, W): a prior of codes of such a shape, or a model of data"
    shaped: ClassVar[bool] = True

    image_shape: tuple[int, int] | None = None
    levels: int = 2
    steps: int = 4
    hidden_channels: int = 32
    rotate: bool = False

    def __post_init__(self) -> None:
        check_image_setting(self)
        for name in ("levels", "steps"):
            check_int(self, name, most=MOST_LAYERS)
        check_int(self, "hidden_channels")
        check_bool(self, "rotate")

    @property
    def starts_as_identity(self) -> bool:
        return False

    def transform(self, features: int | Size, context: int = 0) -> LazyTransform:
        """Build the lazy transform over flat images, from their number of values or their shape (C, H, W).

        Raises:
            FlowvaeError: if these are not images whose sides are divisible by 2^levels.
        """
        if isinstance(features, int):
            self.check_features(features)
            shape = image_of(self, features, self.image_shape, divisor=2**self.levels)
        else:
            if len(features) != 3:
                raise FlowvaeError(f"latent = {tuple(features)} with Glow: must be the shape (C, H, W) of an image.")
            shape = image_of(self, math.prod(features), (features[1], features[2]), divisor=2**self.levels)
        size = math.prod(shape)
        layers: list[LazyTransform] = []
        for level in range(self.levels):
            parts: list[LazyTransform] = [Squeeze(shape)]
            shape = squeezed(shape)
            for _ in range(self.steps):
                start = _rotation(shape[0]) if self.rotate else None
                parts += [
                    ChannelNorm(shape),
                    Convolution1x1(shape, start),
                    ChannelCoupling(shape, self.hidden_channels, context),
                ]
            if level < self.levels - 1:
                parts.append(ChannelCoupling(shape, 0, context))  # the Gaussian of the half that is factored out
            layers += parts if level == 0 else [PartialTransform(part, size) for part in parts]
            shape, size = (shape[0] // 2, *shape[1:]), size // 2
        return LazyComposedTransform(*layers)

    def cost(self, features: int) -> Cost:
        passes = self.levels * self.steps + self.levels - 1
        return Cost(density=passes, sample=passes, sample_and_density=2 * passes)


@torch.no_grad()
def initialize_from_data(transform: LazyTransform, x: Tensor) -> Tensor:
    """Initialize the layers of a transform that have a `start_from`, each from the outputs of the preceding layers.

    Args:
        transform: a composed lazy transform, such as that of `Glow`.
        x: data on which the transform acts, shape (N, D), with N ≥ 2. No context is passed: a conditional transform
            cannot be initialized in this way.

    Returns:
        The transformed data, shape (N, D).

    Raises:
        FlowvaeError: for fewer than two data points.
    """
    if len(x) < 2:
        raise FlowvaeError(f"initialize_from_data: {len(x)} data point(s); a scale needs 2 or more.")
    if isinstance(transform, LazyComposedTransform):
        for part in transform.transforms:
            x = initialize_from_data(part, x)
        return x
    if hasattr(transform, "start_from"):
        transform.start_from(x)
    return transform()(x)


def _rotation(channels: int) -> Tensor:
    return torch.linalg.qr(torch.randn(channels, channels))[0]
