"""Images of a data set side by side in one picture."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray
from torch import Tensor

from flowvae.core.errors import FlowvaeError
from flowvae.data import Dataset

__all__ = ["image_grid", "image_shape", "show_images"]


def image_shape(data: Dataset) -> tuple[int, int]:
    """Height and width of the data's images.

    Raises:
        FlowvaeError: if the data are no images.
    """
    if data.image_shape is None:
        raise FlowvaeError(f"{data.name}: has no image_shape; this figure needs images, such as Digits().")
    return data.image_shape


def image_grid(x: Tensor, data: Dataset, row: int = 8) -> NDArray[np.float32]:
    """N images (N, D) in rows, from 0 to 1, where 1 is the largest value of the training data; shape (height, width).

    Raises:
        FlowvaeError: if the data are no images.
    """
    # its package takes two seconds to import, and most commands draw nothing
    from torchvision.utils import make_grid

    top = float(data.original(data.train).max())
    images = (data.original(x).cpu() / top).float().reshape(-1, 1, *image_shape(data))
    grid: NDArray[np.float32] = make_grid(images, nrow=row, padding=1, pad_value=0.5)[0].numpy(force=True)
    return grid


def show_images(ax: Axes, x: Tensor, data: Dataset, title: str, row: int = 8, size: float = 10) -> None:
    """Draw `image_grid` into axes.

    Args:
        ax: where.
        x: images, shape (N, D).
        data: the data set that they are of, or like.
        title: above them.
        row: images in a row.
        size: of the title, in points.
    """
    ax.imshow(image_grid(x, data, row), cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
    ax.set_title(title, fontsize=size)
    ax.axis("off")
