"""The Glow flow of images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from zuko.lazy import LazyComposedTransform, LazyTransform

from flowvae.core.errors import MOST_LAYERS, FlowvaeError, check_bool, check_int
from flowvae.flows.image.channel_coupling import ChannelCoupling
from flowvae.flows.image.channel_norm import ChannelNorm
from flowvae.flows.image.convolution import Convolution1x1
from flowvae.flows.image.shapes import check_image_setting, image_of
from flowvae.flows.image.squeeze import Squeeze, squeezed
from flowvae.flows.layers.partial_transform import PartialTransform
from flowvae.flows.spec import Cost, FlowSpec

__all__ = ["Glow", "initialize_from_data"]


@dataclass(frozen=True)
class Glow(FlowSpec):
    r"""Squeeze, then steps of actnorm, invertible 1×1 convolution and affine coupling; half is factored out.

    A level squeezes (c, h, w) → (4c, h/2, w/2), takes its steps, and hands the first half of the channels on
    to the next level. The other half is done: it is scored under a Gaussian N(μ(kept), σ²(kept)) that one
    convolution of the kept half gives. That Gaussian is written as one more coupling, u = (z − μ)/σ, so the
    whole flow has base N(0, I) and is one transform of flat rows (..., D), normalizing when called.

    Starts as a permutation of the pixels (see `Convolution1x1`), log|det| = 0. `initialize_from_data` sets the
    actnorms from data, as the paper does; nothing else does it in secret.

    Args:
        image_shape: (height, width), divisible by 2^levels; none: a square image of one channel.
        levels: how often the image is squeezed.
        steps: actnorm, convolution and coupling a level.
        hidden_channels: width of each coupling's network.
        rotate: whether each 1×1 convolution starts as a random rotation (as in the paper) instead of a swap
            of the channels' halves.

    References:
        Kingma & Dhariwal (2018), "Glow: Generative Flow with Invertible 1×1 Convolutions".

    >>> Glow(levels=2, steps=4).cost(features=64)
    Cost(density=9, sample=9, sample_and_density=18)
    """

    title: ClassVar[str] = "image flow: actnorm, 1×1 convolution, coupling"
    paper: ClassVar[str] = "Kingma & Dhariwal 2018"
    roles: ClassVar[tuple[str, ...]] = ()
    why_not: ClassVar[str] = "it is a model of images, and a code is no image"

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

    def transform(self, features: int, context: int = 0) -> LazyTransform:
        """The lazy transform over flat images of that many numbers.

        Raises:
            FlowvaeError: if they are no image whose sides are divisible by 2^levels.
        """
        self.check_features(features)
        shape = image_of(self, features, self.image_shape, divisor=2**self.levels)
        size = features
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
                parts.append(ChannelCoupling(shape, 0, context))  # the Gaussian of what is factored out
            layers += parts if level == 0 else [PartialTransform(part, size) for part in parts]
            shape, size = (shape[0] // 2, *shape[1:]), size // 2
        return LazyComposedTransform(*layers)

    def cost(self, features: int) -> Cost:
        passes = self.levels * self.steps + self.levels - 1
        return Cost(density=passes, sample=passes, sample_and_density=2 * passes)


@torch.no_grad()
def initialize_from_data(transform: LazyTransform, x: Tensor) -> Tensor:
    """Data-dependent initialization: every layer that can, sets itself from what reaches it.

    Args:
        transform: a composed lazy transform, such as that of `Glow`.
        x: data on which the transform acts, shape (N, D), with N ≥ 2; for a transform that a context steers
            there is no such thing, so none is passed.

    Returns:
        What leaves the transform, shape (N, D).

    Raises:
        FlowvaeError: for fewer than two data.
    """
    if len(x) < 2:
        raise FlowvaeError(f"initialize_from_data: {len(x)} data; a scale needs 2 or more.")
    if isinstance(transform, LazyComposedTransform):
        for part in transform.transforms:
            x = initialize_from_data(part, x)
        return x
    if hasattr(transform, "start_from"):
        transform.start_from(x)
    return transform()(x)


def _rotation(channels: int) -> Tensor:
    return torch.linalg.qr(torch.randn(channels, channels))[0]
