"""PixelCNN: causal convolutions over images, in one stack with a blind spot or in two stacks without."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Size, Tensor, nn
from torch.nn import functional as F

from flowvae.core.errors import MOST_LAYERS, FlowvaeError, check_choice, check_int
from flowvae.networks.autoregressive.causal import CausalNetwork, CausalSpec, gated

__all__ = ["CausalImages", "MaskedConv2d", "PixelCNN"]

WHOLE = (slice(None), slice(None))


@dataclass(frozen=True)
class PixelCNN(CausalSpec, name="pixelcnn"):
    """Causal convolutions over the pixels above, and over those to the left in the same row.

    `"masked"` is one stack of k×k kernels whose weights at and after the pixel are zero. A step of a kernel
    that goes up a row goes at most h = ⌊k/2⌋ columns to the right, so the pixel d rows above and more than
    h·d columns to the right has no influence, however many layers there are: the blind spot. `"two-stack"` has
    a vertical stack over all pixels above, which needs no mask, and a horizontal stack over those to the
    left, which reads the vertical one; a pixel depends on every earlier one up to h·layers columns to the right,
    and 1 + h·layers rows above or columns to the left. Fewer layers make a local decoder, as in VLAE.

    Both kinds have gated activations and residual connections, so that they differ in the blind spot alone
    (the first PixelCNN had ReLU), and a learned vector for each position, as in `WaveNet`.

    Args:
        kind: "two-stack" or "masked".
        channels: width of every layer.
        layers: gated layers (of each stack), after the first linear one.
        kernel: k, an odd number.

    References:
        van den Oord et al. (2016), "Pixel recurrent neural networks" (masked).
        van den Oord et al. (2016), "Conditional image generation with PixelCNN decoders" (two-stack).
    """

    title: ClassVar[str] = "masked 2-D convolutions"
    paper: ClassVar[str] = "van den Oord et al. 2016"

    kind: Literal["two-stack", "masked"] = "two-stack"
    channels: int = 32
    layers: int = 7
    kernel: int = 3

    def __post_init__(self) -> None:
        check_choice(self, "kind", ("two-stack", "masked"))
        for name in ("channels", "kernel"):
            check_int(self, name)
        check_int(self, "layers", most=MOST_LAYERS)
        if self.kernel % 2 == 0 or self.kernel < 3:
            raise FlowvaeError(
                f"PixelCNN.kernel = {self.kernel}: must be odd, 3 or more, so that the kernel has a centre."
            )

    def build(self, shape: Size, parameters: int, context: int = 0) -> CausalNetwork:
        """Build the network of images (1, H, W).

        Raises:
            FlowvaeError: for data of another shape.
        """
        if len(shape) != 3 or shape[0] != 1:
            raise FlowvaeError(
                f"PixelCNN: data of shape {tuple(shape)}; it needs images of one channel, (1, H, W). For other data "
                "use MADE or WaveNet."
            )
        return self.network(1, parameters, (shape[1], shape[2]), context)

    def network(
        self, colours: int, parameters: int, image_shape: tuple[int, int], context: int = 0, maps: int = 0
    ) -> CausalImages:
        """Build the network of images of one or several channels, whose output at a pixel depends on earlier pixels.

        Args:
            colours: number of channels of an image, which are all read of a pixel.
            parameters: P, the number of outputs for each pixel.
            image_shape: (H, W).
            context: C, the width of a context for all pixels; 0: none.
            maps: F, the number of feature maps of which each pixel reads its own values; 0: none.
        """
        kind = _TwoStack if self.kind == "two-stack" else _Masked
        return kind(self, colours, parameters, context, maps, image_shape)

    @property
    def radius(self) -> int:
        """Largest number of rows or columns between a pixel and those on which it depends."""
        return self.kernel // 2 * (self.layers + 1) if self.kind == "masked" else 1 + self.kernel // 2 * self.layers


class MaskedConv2d(nn.Conv2d):
    """A convolution over earlier pixels in raster order, and with `own` the pixel itself.

    Args:
        inputs: channels in.
        outputs: channels out.
        kernel: odd size.
        own: False is mask A of the paper (for data), True mask B (for features, which exclude the pixel already).
    """

    mask: Tensor

    def __init__(self, inputs: int, outputs: int, kernel: int, own: bool) -> None:
        super().__init__(inputs, outputs, kernel, padding=kernel // 2)
        middle = kernel // 2
        mask = torch.ones(kernel, kernel)
        mask[middle, middle + own :] = 0
        mask[middle + 1 :] = 0
        self.register_buffer("mask", mask)

    def forward(self, h: Tensor) -> Tensor:
        return self._conv_forward(h, self.weight * self.mask, self.bias)


class CausalImages(CausalNetwork):
    """Base class of both kinds: features of images, mapped to parameters for each pixel."""

    def __init__(
        self, spec: PixelCNN, colours: int, parameters: int, context: int, maps: int, image_shape: tuple[int, int]
    ) -> None:
        super().__init__(math.prod(image_shape), parameters, context)
        self.image_shape = image_shape
        self.layers = spec.layers
        channels = spec.channels
        self.place = nn.Parameter(torch.zeros(channels, *image_shape))
        self.contexts = nn.ModuleList(
            nn.Linear(context, 2 * channels, bias=False) for _ in range(self.layers if context else 0)
        )
        self.maps = nn.ModuleList(
            nn.Conv2d(maps, 2 * channels, 1, bias=False) for _ in range(self.layers if maps else 0)
        )
        self.output = nn.Sequential(
            nn.ReLU(), nn.Conv2d(channels, channels, 1), nn.ReLU(), nn.Conv2d(channels, parameters, 1)
        )

    def rows(self, x: Tensor, context: Tensor | None) -> Tensor:
        shifts: list[Any] = [layer(context)[:, :, None, None] for layer in self.contexts]
        h = self.stacks(x.reshape(-1, 1, *self.image_shape), self.place, shifts or [0.0] * self.layers)
        return self.output(h).flatten(2).transpose(1, 2)

    def images(self, x: Tensor, maps: Tensor, window: tuple[slice, slice] = WHOLE) -> Tensor:
        """Compute parameters (N, P, H, W) from images (N, C, H, W) and feature maps (N, F, H, W).

        Args:
            x: images, or a window of them.
            maps: feature maps, cut to the same window; each pixel reads its own.
            window: rows and columns.
        """
        shifts = [layer(maps) for layer in self.maps]
        h: Tensor = self.output(self.stacks(x, self.place[:, *window], shifts))
        return h

    @abstractmethod
    def stacks(self, image: Tensor, place: Tensor, shifts: list[Any]) -> Tensor:
        """Compute features (N, channels, H, W) of images (N, C, H, W); the context shifts the gates of each layer."""


class _Masked(CausalImages):
    def __init__(
        self, spec: PixelCNN, colours: int, parameters: int, context: int, maps: int, image_shape: tuple[int, int]
    ) -> None:
        super().__init__(spec, colours, parameters, context, maps, image_shape)
        channels = spec.channels
        self.input = MaskedConv2d(colours, channels, spec.kernel, own=False)
        self.convolutions = nn.ModuleList(
            MaskedConv2d(channels, 2 * channels, spec.kernel, own=True) for _ in range(spec.layers)
        )
        self.residuals = nn.ModuleList(nn.Conv2d(channels, channels, 1) for _ in range(spec.layers))

    def stacks(self, image: Tensor, place: Tensor, shifts: list[Any]) -> Tensor:
        h = self.input(image) + place
        for convolution, residual, shift in zip(self.convolutions, self.residuals, shifts, strict=True):
            h = h + residual(gated(convolution(h) + shift))
        return h


class _TwoStack(CausalImages):
    def __init__(
        self, spec: PixelCNN, colours: int, parameters: int, context: int, maps: int, image_shape: tuple[int, int]
    ) -> None:
        super().__init__(spec, colours, parameters, context, maps, image_shape)
        channels, self.reach = spec.channels, spec.kernel // 2
        up, left = (self.reach + 1, spec.kernel), (1, self.reach + 1)

        def each(inputs: int, kernel: int | tuple[int, int]) -> nn.ModuleList:
            return nn.ModuleList(nn.Conv2d(inputs, 2 * channels, kernel) for _ in range(spec.layers))

        self.above = nn.Conv2d(colours, channels, 1)
        self.before = nn.Conv2d(colours, channels, 1)
        self.vertical, self.horizontal, self.across = each(channels, up), each(channels, left), each(2 * channels, 1)
        self.residuals = nn.ModuleList(nn.Conv2d(channels, channels, 1) for _ in range(spec.layers))

    def stacks(self, image: Tensor, place: Tensor, shifts: list[Any]) -> Tensor:
        # a shift by one row (column) makes the first layer causal, and padding on one side all others
        v = self.above(F.pad(image[:, :, :-1], (0, 0, 1, 0))) + place
        h = self.before(F.pad(image[..., :-1], (1, 0))) + place
        for vertical, horizontal, across, residual, shift in zip(
            self.vertical, self.horizontal, self.across, self.residuals, shifts, strict=True
        ):
            rows = vertical(F.pad(v, (self.reach, self.reach, self.reach, 0)))
            columns = horizontal(F.pad(h, (self.reach, 0)))
            h = h + residual(gated(columns + across(rows) + shift))
            v = v + gated(rows + shift)
        return h
