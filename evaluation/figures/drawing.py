"""Empty figures, their colours, and functions on a grid."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["BLUE", "DPI", "GREY", "RED", "SHARPNESS", "new_figure", "on_grid"]

BLUE, GREY, RED = "#1f4e79", "#b8b8b8", "#c0392b"  # differ in lightness, so that they are distinguishable in greyscale
DPI = 100  # figure pixels per inch
SHARPNESS = 2  # pixels of a file per figure pixel, a whole number, so that pixels of images stay squares


def new_figure(size: tuple[float, float], fixed: bool = False) -> Figure:
    """Return an empty figure, which a notebook displays as the result of a cell.

    Args:
        size: width and height in inches.
        fixed: whether the caller positions all axes; otherwise a layout engine keeps titles and labels apart.
    """
    from matplotlib.patches import Rectangle

    figure = _notebook_figure()(figsize=size, dpi=DPI, facecolor="white", layout=None if fixed else "constrained")
    if fixed:
        figure.set_layout_engine("none")  # None would be the default of rcParams, which may be an engine
        # a notebook crops figures to what is drawn, which would move images by parts of a pixel
        figure.add_artist(Rectangle((0, 0), 1, 1, transform=figure.transFigure, facecolor="white", zorder=-10))
    return figure


@cache
def _notebook_figure() -> type[Figure]:
    """A class of matplotlib figures that notebooks display, even if they have not imported pyplot."""
    from matplotlib.figure import Figure

    class NotebookFigure(Figure):
        def _repr_png_(self) -> tuple[bytes, dict[str, Any]]:
            file = BytesIO()
            self.savefig(file, format="png", dpi=SHARPNESS * self.dpi)
            width, height = (round(side * self.dpi) for side in self.get_size_inches())
            return file.getvalue(), {"width": width, "height": height}

    return NotebookFigure


@torch.no_grad()
def on_grid(function: Callable[[Tensor], Tensor], across: Tensor, up: Tensor) -> np.ndarray[Any, Any]:
    """Evaluate a function of points (M, 2) → (M,), such as a log-density, on a grid.

    Args:
        function: function of points, which have the device and dtype of `across`.
        across: first coordinates, shape (A,).
        up: second coordinates, shape (B,).

    Returns:
        Values, one row per second coordinate as in `imshow` and `contour`, shape (B, A).
    """
    values = function(torch.cartesian_prod(across, up))
    return values.reshape(len(across), len(up)).T.numpy(force=True)
