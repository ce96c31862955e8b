"""Grids of images of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from flowvae.core.errors import FlowvaeError
from flowvae.data import Dataset, blocks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["as_picture", "check_images", "image_grid", "is_image", "show_images", "value_range"]


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
    """Values drawn as 0 and 1, in original units: 0 (or a negative minimum) and the maximum of the training data."""
    ends = [(float(x.min()), float(x.max())) for x in map(data.original, blocks(data.train))]
    low, high = min(0.0, *(least for least, _ in ends)), max(most for _, most in ends)
    return low, high if high > low else low + 1


def as_picture(image: Tensor) -> NDArray[np.float32]:
    """Convert an image (C, H, W) with values from 0 to 1 for `imshow`: (H, W) in grey, (H, W, 3) in colour."""
    shown = image[0] if len(image) == 1 else image.movedim(0, -1).clamp(0, 1)
    picture: NDArray[np.float32] = shown.numpy(force=True)
    return picture


def image_grid(x: Tensor, data: Dataset, row: int = 8) -> NDArray[np.float32]:
    """Arrange N images (N, C, H, W) in a grid, scaled to 0 to 1 by `value_range`.

    Returns:
        The grid, shape (height, width) in grey, (height, width, 3) in colour.

    Raises:
        FlowvaeError: if the data are not images.
    """
    # the import takes two seconds, and most commands draw nothing
    from torchvision.utils import make_grid

    check_images(data)
    low, high = value_range(data)
    images = ((data.original(x.reshape(-1, *data.shape)).cpu() - low) / (high - low)).float()
    return as_picture(make_grid(images, nrow=row, padding=1, pad_value=0.5)[: data.shape[0]])


def show_images(ax: Axes, x: Tensor, data: Dataset, title: str, row: int = 8, size: float = 10) -> None:
    """Draw `image_grid` into axes.

    Args:
        ax: the axes.
        x: images, shape (N, C, H, W).
        data: the data set that they belong to.
        title: of the axes.
        row: images in a row.
        size: font size of the title, in points.
    """
    ax.imshow(image_grid(x, data, row), cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
    ax.set_title(title, fontsize=size)
    ax.axis("off")
