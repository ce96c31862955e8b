"""PixelCNN: causal convolutions over images, in one stack with a blind spot, or in two stacks without one."""

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

__all__ = ["CausalImages", "MaskedConv2d", "PixelCNN", "TwoStackImages"]

WHOLE = (slice(None), slice(None))


@dataclass(frozen=True)
class PixelCNN(CausalSpec, name="pixelcnn"):
    """Causal convolutions over the pixels above, and over those to the left in the same row.

    `"masked"` is one stack of k×k kernels whose weights at and after the pixel are zero. For each row upwards, a kernel
    reaches at most h = ⌊k/2⌋ columns to the right, so a pixel d rows above and more than h·d columns to the right has
    no influence for any number of layers: the blind spot. `"two-stack"` has a vertical stack over all pixels above,
    which needs no mask, and a horizontal stack over those to the left, which reads the vertical one; a pixel depends on
    all pixels up to 1 + h·layers to its left, and in the 1 + h·layers rows above up to h·layers columns on either side.
    Fewer layers, or a smaller `field`, make a local decoder.

    Both kinds have gated activations and residual connections, so that they differ in the blind spot alone
    (the first PixelCNN had ReLU), and a learned vector for each position, as in `WaveNet`.

    Args:
        kind: "two-stack" or "masked".
        channels: width of every layer.
        layers: number of gated layers (of each stack), after the first linear one.
        kernel: k, an odd number.
        field: radius of the receptive field, the largest distance in rows or columns to a pixel on which a pixel
            depends; none: what the layers reach, 1 + h·layers (two-stack) or h·(1 + layers) (masked). A smaller field
            keeps the number of layers: those beyond it have kernels of one pixel. 0: no dependence.

    Raises:
        FlowvaeError: for settings out of range, or a field that the layers cannot have.

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
    field: int | None = None

    def __post_init__(self) -> None:
        check_choice(self, "kind", ("two-stack", "masked"))
        for name in ("channels", "kernel"):
            check_int(self, name)
        check_int(self, "layers", most=MOST_LAYERS)
        if self.kernel % 2 == 0 or self.kernel < 3:
            raise FlowvaeError(
                f"PixelCNN.kernel = {self.kernel}: must be odd, 3 or more, so that the kernel has a centre."
            )
        if self.field is not None:
            check_int(self, "field", least=0)
            known = [0, *(self._first + self.kernel // 2 * wide for wide in range(self.layers + 1))]
            if self.field not in known:
                some = ", ".join(map(str, known if len(known) < 6 else [*known[:3], "…", known[-1]]))
                raise FlowvaeError(
                    f"PixelCNN.field = {self.field} with layers = {self.layers}, kernel = {self.kernel}: must be none "
                    f"or one of {some}; more layers reach further."
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
            colours: number of channels of an image; all channels of an earlier pixel are read.
            parameters: P, the number of outputs per pixel.
            image_shape: (H, W).
            context: C, the width of a context for all pixels; 0: none.
            maps: F, the number of feature maps, which each pixel reads at its position; 0: none.
        """
        kind = TwoStackImages if self.kind == "two-stack" else _Masked
        return kind(self, colours, parameters, context, maps, image_shape)

    @property
    def radius(self) -> int:
        """Largest distance, in rows or columns, to a pixel on which a pixel depends."""
        return self._first + self.kernel // 2 * self.layers if self.field is None else self.field

    @property
    def _first(self) -> int:
        """Radius of the first layer."""
        return self.kernel // 2 if self.kind == "masked" else 1

    @property
    def kernels(self) -> list[int]:
        """Size of the kernel of each gated layer."""
        wide = max(0, self.radius - self._first) // (self.kernel // 2)
        return [self.kernel] * wide + [1] * (self.layers - wide)


class MaskedConv2d(nn.Conv2d):
    """Convolution over earlier pixels in raster order and, with `own`, the pixel itself.

    Args:
        inputs: number of input channels.
        outputs: number of output channels.
        kernel: size of the kernel, an odd number.
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
    """Base class of both kinds, which map features of an image to parameters of each pixel."""

    def __init__(
        self, spec: PixelCNN, colours: int, parameters: int, context: int, maps: int, image_shape: tuple[int, int]
    ) -> None:
        super().__init__(math.prod(image_shape), parameters, context)
        self.image_shape = image_shape
        self.layers = spec.layers
        self.sees = spec.radius > 0
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
            maps: feature maps, cut to the same window; a pixel reads them at its position.
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
        self.input = MaskedConv2d(colours, channels, spec.kernel, own=False) if self.sees else None
        self.convolutions = nn.ModuleList(
            MaskedConv2d(channels, 2 * channels, kernel, own=True) for kernel in spec.kernels
        )
        self.residuals = nn.ModuleList(nn.Conv2d(channels, channels, 1) for _ in range(spec.layers))

    def stacks(self, image: Tensor, place: Tensor, shifts: list[Any]) -> Tensor:
        h = _blank(image, place) if self.input is None else self.input(image) + place
        for convolution, residual, shift in zip(self.convolutions, self.residuals, shifts, strict=True):
            h = h + residual(gated(convolution(h) + shift))
        return h


class TwoStackImages(CausalImages):
    """The two-stack kind, which can also be evaluated pixel by pixel, for draws."""

    def __init__(
        self, spec: PixelCNN, colours: int, parameters: int, context: int, maps: int, image_shape: tuple[int, int]
    ) -> None:
        super().__init__(spec, colours, parameters, context, maps, image_shape)
        channels, kernels = spec.channels, spec.kernels
        self.reaches = [kernel // 2 for kernel in kernels]

        def each(inputs: int, sizes: list[tuple[int, int]]) -> nn.ModuleList:
            return nn.ModuleList(nn.Conv2d(inputs, 2 * channels, size) for size in sizes)

        self.above = nn.Conv2d(colours, channels, 1) if self.sees else None
        self.before = nn.Conv2d(colours, channels, 1) if self.sees else None
        self.vertical = each(channels, [(kernel // 2 + 1, kernel) for kernel in kernels])
        self.horizontal = each(channels, [(1, kernel // 2 + 1) for kernel in kernels])
        self.across = each(2 * channels, [(1, 1) for _ in kernels])
        self.residuals = nn.ModuleList(nn.Conv2d(channels, channels, 1) for _ in range(spec.layers))

    def stacks(self, image: Tensor, place: Tensor, shifts: list[Any]) -> Tensor:
        return self._along(image, place, shifts, self._down(image, place, shifts))

    def rows_above(self, x: Tensor, maps: Tensor, window: tuple[slice, slice]) -> list[tuple[Tensor, Tensor]]:
        """Compute what each layer reads in the last row, from the rows above it and from the feature maps.

        Args:
            x: images, or a window of them, see `images`; the last row has no influence.
            maps: feature maps, cut to the same window.
            window: rows and columns.

        Returns:
            Two tensors of shape (N, 2 · channels, 1, W) for each layer.
        """
        shifts = [layer(maps) for layer in self.maps]
        above = self._down(x, self.place[:, *window], shifts, last=True)
        return [(rows, shift[:, :, -1:]) for rows, shift in zip(above, shifts, strict=True)]

    def next_pixel(self, x: Tensor, read: list[tuple[Tensor, Tensor]], window: tuple[slice, slice]) -> Tensor:
        """Compute the parameters (N, P, 1, 1) of the last pixel of a part of a row.

        Args:
            x: the part of the row, (N, C, 1, w); the last pixel has no influence.
            read: result of `rows_above` for this row.
            window: rows and columns.
        """
        above, shifts = ([each[kind][..., window[1]] for each in read] for kind in (0, 1))
        h = self._along(x, self.place[:, *window], shifts, above)
        found: Tensor = self.output(h[..., -1:])
        return found

    def _down(self, image: Tensor, place: Tensor, shifts: list[Any], last: bool = False) -> list[Tensor]:
        """Compute what each horizontal layer reads from the vertical stack, in all rows or in the last one."""
        v, found = _blank(image, place), []
        if self.above is not None:  # a shift by one row makes the first layer causal, and padding above all others
            v = self.above(F.pad(image[:, :, :-1], (0, 0, 1, 0))) + place
        for reach, vertical, across, shift in zip(self.reaches, self.vertical, self.across, shifts, strict=True):
            rows = vertical(F.pad(v, (reach, reach, reach, 0)))
            found.append(across(rows[:, :, -1:] if last else rows))
            v = v + gated(rows + shift)
        return found

    def _along(self, image: Tensor, place: Tensor, shifts: list[Any], above: list[Tensor]) -> Tensor:
        """Compute the features (N, channels, H, W) of the horizontal stack."""
        h = _blank(image, place)
        if self.before is not None:  # a shift by one column makes the first layer causal, and padding all others
            h = self.before(F.pad(image[..., :-1], (1, 0))) + place
        for reach, horizontal, residual, shift, rows in zip(
            self.reaches, self.horizontal, self.residuals, shifts, above, strict=True
        ):
            h = h + residual(gated(horizontal(F.pad(h, (reach, 0))) + rows + shift))
        return h


def _blank(image: Tensor, place: Tensor) -> Tensor:
    """Return the features of a network that reads no pixels: those of the positions, for each image."""
    return place.expand(len(image), *place.shape)
