"""Empty figures, their colours, and functions on a grid."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["BLUE", "GREY", "RED", "new_figure", "on_grid"]

BLUE, GREY, RED = "#1f4e79", "#b8b8b8", "#c0392b"  # of different lightness, distinguishable in greyscale


def new_figure(size: tuple[float, float]) -> Figure:
    """Return an empty figure of this width and height in inches, whose layout keeps titles and labels apart."""
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained")


@torch.no_grad()
def on_grid(function: Callable[[Tensor], Tensor], across: Tensor, up: Tensor) -> np.ndarray[Any, Any]:
    """Evaluate a function of points (M, 2) → (M,), such as a log-density, on a grid.

    Args:
        function: of points on the device and of the dtype of `across`.
        across: first coordinates, shape (A,).
        up: second coordinates, shape (B,).

    Returns:
        Values, one row per second coordinate as in `imshow` and `contour`, shape (B, A).
    """
    values = function(torch.cartesian_prod(across, up))
    return values.reshape(len(across), len(up)).T.numpy(force=True)
