"""Images of a data set: which data are images, the values drawn as black and as white, and grids of images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowvae.core.errors import FlowvaeError
from flowvae.core.parts import LikelihoodSpec
from flowvae.data import Dataset, Source

__all__ = [
    "as_rgb",
    "cells",
    "check_images",
    "image_grid",
    "image_scale",
    "is_image",
    "line_width",
    "range_of",
    "value_range",
]

SIDE = 56  # target for the longer side of a drawn image, figure pixels
BREAK = 8  # gap between groups of images, figure pixels
LINE = 190  # grey level of the lines around images: dark and light images stand out from it
BACKGROUND = 255
VALUES = 2**20  # training values from which the range of real numbers is computed
TAIL = 1e-3  # share of these values below, and above, the range


def is_image(shape: Sequence[int]) -> bool:
    """Whether data points of this event shape are drawn as images: (C, H, W), grey (C = 1) or in colour (C = 3)."""
    return len(shape) == 3 and shape[0] in (1, 3)


def check_images(data: Dataset) -> None:
    """Check that data are images.

    Raises:
        FlowvaeError: for data that are not images.
    """
    if not is_image(data.shape):
        raise FlowvaeError(
            f"{data.name}: data points of shape {tuple(data.shape)}; this figure needs images, of shape (1, H, W) or "
            "(3, H, W), such as Digits()."
        )


def value_range(data: Dataset) -> tuple[float, float]:
    """Values drawn as black and as white, in original units: `range_of` evenly spaced training data."""
    if data.likelihood.largest is not None and data.offset is None:
        return 0.0, float(data.likelihood.largest)
    train: Tensor | Source = data.train
    rows = min(len(train), max(1, VALUES // data.features))
    places = torch.linspace(0, len(train) - 1, rows).round().long()
    return range_of(data.likelihood, data.original(train[places.to(getattr(train, "device", "cpu"))]))


def range_of(likelihood: LikelihoodSpec, x: Tensor) -> tuple[float, float]:
    """Values drawn as black and as white.

    - Counts with a largest value: 0 and that value, so that bits are black and white.
    - Other values that reach from 0 to near 1, as grey levels do after division by 255: 0 and 1.
    - Any other values: their 0.1 % and 99.9 % quantiles; 0 in place of the first one for counts.

    Args:
        likelihood: likelihood of the data.
        x: data in original units, of any shape.
    """
    if likelihood.largest is not None:
        return 0.0, float(likelihood.largest)
    values = x.cpu().double().flatten().sort().values
    ends = [round(share * (len(values) - 1)) for share in (TAIL, 1 - TAIL)]
    low, high = values[ends].tolist()
    if values[0] >= 0 and 0.5 < high <= values[-1] <= 1:
        return 0.0, 1.0
    if high <= low:  # few values differ from the others
        low, high = values[[0, -1]].tolist()
    if likelihood.discrete:
        low = min(0.0, low)
    return low, high if high > low else low + 1


def as_rgb(x: Tensor, span: tuple[float, float]) -> NDArray[np.uint8]:
    """Colours of images (..., C, H, W), shape (..., H, W, 3): the lower end of the span black, the upper end white.

    This is how image files store grey photographs, colour photographs and MNIST, so that nothing appears as a negative.
    """
    low, high = span
    shades = (((x.cpu().double() - low) / (high - low)).clamp(0, 1) * 255).round().to(torch.uint8)
    colours = shades.expand(*shades.shape[:-3], 3, *shades.shape[-2:]).movedim(-3, -1)
    rgb: NDArray[np.uint8] = colours.contiguous().numpy()
    return rgb


def image_scale(shape: Sequence[int]) -> int:
    """Side of a drawn pixel of an image (C, H, W) in figure pixels: the whole number that brings it nearest to 56."""
    return max(1, math.floor(SIDE / max(shape[-2:]) + 0.5))


def line_width(scale: int) -> int:
    """Width of the line around images drawn at a scale, figure pixels: half of a drawn pixel, at least 1."""
    return max(1, scale // 2)


def cells(count: int, side: int, scale: int, breaks: Sequence[int] = ()) -> list[int]:
    """First pixels of `count` cells in a row or a column, for images of `side` pixels, and their total length."""
    line = line_width(scale)
    starts = [
        number * (scale * side + line) + BREAK * sum(0 < at <= number for at in breaks) for number in range(count)
    ]
    return [*starts, starts[-1] + scale * side + 2 * line]


def image_grid(
    x: Tensor,
    span: tuple[float, float],
    columns: int,
    breaks: Sequence[int] = (),
    row_breaks: Sequence[int] = (),
    scale: int | None = None,
) -> NDArray[np.uint8]:
    """Arrange N images row by row; a pixel of an image is a square of `scale` by `scale` pixels of the grid.

    Args:
        x: images in original units, shape (N, C, H, W); an image of NaN leaves its cell empty.
        span: values drawn as black and as white.
        columns: images in a row.
        breaks: columns after a wider gap.
        row_breaks: rows after a wider gap.
        scale: side of a drawn pixel; None: `image_scale`.

    Returns:
        The grid in RGB, shape (height, width, 3), with a grey line around each image, shared by neighbours.
    """
    scale = image_scale(x.shape) if scale is None else scale
    line = line_width(scale)
    tops = cells(math.ceil(len(x) / columns), x.shape[-2], scale, row_breaks)
    lefts = cells(columns, x.shape[-1], scale, breaks)
    grid = np.full((tops[-1], lefts[-1], 3), BACKGROUND, np.uint8)
    for number, image in enumerate(x):
        if image.isnan().all():
            continue
        picture = as_rgb(image, span).repeat(scale, 0).repeat(scale, 1)
        framed = np.pad(picture, ((line, line), (line, line), (0, 0)), constant_values=LINE)
        top, left = tops[number // columns], lefts[number % columns]
        grid[top : top + framed.shape[0], left : left + framed.shape[1]] = framed
    return grid
