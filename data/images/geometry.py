"""Size and colour of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Size, Tensor

from flowvae.core.errors import FlowvaeError, check_choice, check_int_value, plain_number, shown

__all__ = ["AS_THEY_ARE", "Geometry"]

AS_THEY_ARE = "as they are"
COLOURS = (AS_THEY_ARE, "grey", "rgb")
LARGEST_SIDE = 2**14
BLOCK = 2**22  # values resized at a time


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Size and colour of images: first `resize`, then `crop`, then `colour`.

    Args:
        resize: height and width; or one number, the length of the shorter side. Bilinear, antialiased.
        crop: height and width of the centre that is kept; one number for a square.
        colour: "as they are", "grey" (luma) or "rgb" (grey images get three equal channels).
    """

    resize: int | tuple[int, int] | None = None
    crop: int | tuple[int, int] | None = None
    colour: str = AS_THEY_ARE

    def __post_init__(self) -> None:
        check_choice(self, "colour", COLOURS)
        for setting in ("resize", "crop"):
            object.__setattr__(self, setting, _size(f"{type(self).__name__}.{setting}", getattr(self, setting)))

    @property
    def geometry_text(self) -> list[str]:
        """The changes of size and colour, in words."""
        parts = []
        if self.resize is not None:
            to = f"{self.resize} (shorter side)" if isinstance(self.resize, int) else _by(self.resize)
            parts.append(f"resized to {to}, bilinear, antialiased")
        if self.crop is not None:
            parts.append(f"centre of {_by(_pair(self.crop))}")
        if self.colour != AS_THEY_ARE:
            parts.append(f"converted to {self.colour}")
        return parts

    def event_shape(self, shape: Sequence[int]) -> Size:
        """The shape (C, H, W) of an image after the changes, from its shape before."""
        channels, *size = shape
        channels = {"grey": 1, "rgb": 3}.get(self.colour, channels)
        return Size((channels, *self.size((size[0], size[1]))))

    def size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of an image after the changes, from those before.

        Raises:
            FlowvaeError: for an image that is smaller than the crop.
        """
        if isinstance(self.resize, int):
            short, long = min(size), max(size)
            longer = int(self.resize * long / short)
            size = (self.resize, longer) if size[0] <= size[1] else (longer, self.resize)
        elif self.resize is not None:
            size = self.resize
        if self.crop is None:
            return size
        crop = _pair(self.crop)
        if crop[0] > size[0] or crop[1] > size[1]:
            resized = " after resize" if self.resize is not None else ""
            raise FlowvaeError(
                f"crop = {_by(crop)}: an image has only {_by(size)}{resized}; crop less, or resize to {min(crop)} or "
                "more before."
            )
        return crop

    def resized(self, x: Tensor) -> Tensor:
        """Resize, crop and convert images (N, C, H, W).

        Raises:
            FlowvaeError: for images that are smaller than the crop.
        """
        if self.resize is None and self.crop is None and self.colour == AS_THEY_ARE:
            return x
        # imported here: most data need no torchvision, whose import takes half a second
        from torchvision.transforms.v2 import functional

        self.size((x.shape[-2], x.shape[-1]))  # refuses images smaller than the crop
        done = []
        for block in x.split(max(1, BLOCK // max(1, x[0].numel()))):
            if self.resize is not None:
                size = [self.resize] if isinstance(self.resize, int) else list(self.resize)
                block = functional.resize(block, size, antialias=True)
            if self.crop is not None:
                block = functional.center_crop(block, list(_pair(self.crop)))
            if self.colour == "grey" and block.shape[1] == 3:
                block = functional.rgb_to_grayscale(block)
            if self.colour == "rgb" and block.shape[1] == 1:
                block = block.expand(-1, 3, -1, -1)
            done.append(block)
        return torch.cat(done)


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} × {size[1]}"


def _size(label: str, value: Any) -> int | tuple[int, int] | None:
    """Check a size: one side, (height, width), or None."""
    value = plain_number(value)
    if isinstance(value, list | tuple):
        sides = tuple(plain_number(side) for side in value)
        if len(sides) != 2:
            raise FlowvaeError(f"{label} = {shown(value)}: must be one number, or height and width.")
        for side in sides:
            check_int_value(label, side, most=LARGEST_SIDE)
        return sides[0], sides[1]
    if value is not None:
        check_int_value(label, value, most=LARGEST_SIDE)
    found: int | None = value
    return found
