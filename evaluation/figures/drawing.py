"""What the figures share: their colours, and densities on a grid."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["BLUE", "GREY", "RED", "on_grid"]

BLUE, GREY, RED = "#1f4e79", "#b8b8b8", "#c0392b"  # of different lightness: legible in greyscale


@torch.no_grad()
def on_grid(function: Callable[[Tensor], Tensor], across: Tensor, up: Tensor) -> np.ndarray[Any, Any]:
    """A function of points (M, 2) → (M,), such as a log-density, at every node of a grid.

    Args:
        function: takes points on the device and of the type of `across`.
        across: first coordinates, shape (A,).
        up: second coordinates, shape (B,).

    Returns:
        values, a row for each second coordinate, as `imshow` and `contour` take them, shape (B, A).
    """
    values = function(torch.cartesian_prod(across, up))
    return values.reshape(len(across), len(up)).T.numpy(force=True)
