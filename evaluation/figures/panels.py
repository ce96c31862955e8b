"""Figures of images, laid out in whole pixels: panels of images with titles and labels, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from flowvae.evaluation.figures.drawing import DPI, new_figure
from flowvae.evaluation.figures.images import cells, image_grid, image_scale, line_width

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["WIDTH", "Panel", "axes_beside", "columns_within", "draw_panels", "label_width", "rows_within"]

WIDTH = 830  # largest width of a figure if its images allow it, that of a web page, figure pixels
HEIGHT = 420  # height of the images of a panel, figure pixels
MARGIN, BETWEEN = 6, 14  # around the figure, and between panels, figure pixels
TITLE, LABEL = 9.5, 8.0  # font sizes, points
TITLE_LINE, LABEL_LINE = 17, 18  # heights of a line, figure pixels
SPACE = 6  # between text and images, figure pixels


@dataclass(frozen=True)
class Panel:
    """Images in rows, with a title.

    Args:
        images: images in original units, shape (N, C, H, W), row by row; an image of NaN leaves its cell empty.
        columns: images in a row.
        title: title above the images.
        labels: labels of the rows, on the left.
        notes: notes on the rows, on the right.
        heads: headings of the columns; empty texts for none.
        note_head: heading of the notes.
        breaks: columns after a wider gap; twice the gap for a column that occurs twice.
        row_breaks: rows after a wider gap.
        room: figure pixels to leave free on the left, on the right and below, for axes that the caller adds.
    """

    images: Tensor
    columns: int
    title: str = ""
    labels: Sequence[str] = ()
    notes: Sequence[str] = ()
    heads: Sequence[str] = ()
    note_head: str = ""
    breaks: Sequence[int] = ()
    row_breaks: Sequence[int] = ()
    room: tuple[int, int, int] = (0, 0, 0)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return -(-len(self.images) // self.columns)

    @property
    def tops(self) -> list[int]:
        """First pixels of the rows below the upper edge of the grid, and the height of the grid."""
        return cells(self.rows, self.images.shape[-2], image_scale(self.images.shape), self.row_breaks)

    @property
    def lefts(self) -> list[int]:
        """First pixels of the columns right of the left edge of the grid, and the width of the grid."""
        return cells(self.columns, self.images.shape[-1], image_scale(self.images.shape), self.breaks)


def columns_within(shape: Sequence[int], panels: int = 1, reserved: int = 0) -> int:
    """Number of images of a shape (C, H, W) that fit into a row of each panel, at least 1.

    Args:
        shape: shape of an image.
        panels: number of panels of equal width, side by side.
        reserved: width for labels and gaps of all panels, figure pixels.
    """
    free = (WIDTH - 2 * MARGIN - (panels - 1) * BETWEEN - reserved) // panels
    scale = image_scale(shape)
    line = line_width(scale)
    return max(1, (free - line) // (scale * shape[-1] + line))


def rows_within(shape: Sequence[int], height: int = HEIGHT) -> int:
    """Number of images of a shape (C, H, W) that fit into a column of a height in figure pixels, at least 2."""
    scale = image_scale(shape)
    return max(2, height // (scale * shape[-2] + line_width(scale)))


def draw_panels(panels: Sequence[Panel], span: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    """Draw panels side by side, with a new line if they exceed the width of a page.

    At the figure's own resolution, and at whole multiples of it, every pixel of an image is a square of whole pixels.

    Args:
        panels: panels of images of one shape.
        span: values drawn as black and as white.

    Returns:
        The figure, and for each panel the axes of its grid, whose coordinates are figure pixels from the upper left.
    """
    lines: list[list[_Placed]] = [[]]
    for panel in map(_Placed, panels):
        if lines[-1] and sum(other.width + BETWEEN for other in lines[-1]) + panel.width > WIDTH - 2 * MARGIN:
            lines.append([])
        lines[-1].append(panel)
    width = max(sum(p.width for p in line) + BETWEEN * (len(line) - 1) for line in lines) + 2 * MARGIN
    above, below = ([max(getattr(p, side) for p in line) for line in lines] for side in ("above", "below"))
    height = sum(above) + sum(below) + BETWEEN * (len(lines) - 1) + 2 * MARGIN
    figure = new_figure((width / DPI, height / DPI), fixed=True)
    axes, top = [], MARGIN
    for line, titles, grids in zip(lines, above, below, strict=True):
        left = MARGIN
        for placed in line:
            axes.append(placed.draw(figure, span, left, top + titles, width, height))
            left += placed.width + BETWEEN
        top += titles + grids + BETWEEN
    return figure, axes


def axes_beside(grid: Axes, left: float, top: float, width: float, height: float) -> Axes:
    """Add axes beside a grid that `draw_panels` has drawn, in figure pixels from the grid's upper left."""
    whole_width, whole_height = grid.get_xlim()[1], grid.get_ylim()[0]
    bounds = left / whole_width, 1 - (top + height) / whole_height, width / whole_width, height / whole_height
    return grid.inset_axes(bounds)


class _Placed:
    """A panel with its sizes in figure pixels."""

    def __init__(self, panel: Panel) -> None:
        self.panel = panel
        *_, self.grid_width = panel.lefts
        *_, self.grid_height = panel.tops
        before, after, below = panel.room
        self.before = before + label_width(panel.labels)
        self.after = after + label_width([*panel.notes, panel.note_head])
        self.width = self.before + self.grid_width + self.after
        self.title = _wrapped(panel.title, self.grid_width + self.after)
        self.heads = LABEL_LINE * any((*panel.heads, panel.note_head))
        self.above = TITLE_LINE * len(self.title) + (SPACE if self.title else 0) + self.heads
        self.below = self.grid_height + below

    def draw(self, figure: Figure, span: tuple[float, float], left: int, top: int, width: int, height: int) -> Axes:
        """Draw the panel, whose cells begin `top` pixels below the upper edge of the figure."""
        panel, x = self.panel, left + self.before
        box = x / width, 1 - (top + self.grid_height) / height, self.grid_width / width, self.grid_height / height
        ax = figure.add_axes(box)
        ax.imshow(
            image_grid(panel.images, span, panel.columns, panel.breaks, panel.row_breaks),
            interpolation="nearest",
            aspect="auto",
            extent=(0, self.grid_width, self.grid_height, 0),
        )
        ax.axis("off")
        scale = image_scale(panel.images.shape)
        down, across = (line_width(scale) + scale * side / 2 for side in panel.images.shape[-2:])
        middles, centres = [top + down for top in panel.tops[:-1]], [left + across for left in panel.lefts[:-1]]
        for y, text in zip(middles, panel.labels, strict=False):
            ax.text(-SPACE, y, text, ha="right", va="center", fontsize=LABEL)
        for y, text in zip(middles, panel.notes, strict=False):
            ax.text(self.grid_width + SPACE, y, text, ha="left", va="center", fontsize=LABEL)
        for centre, text in zip(centres, panel.heads, strict=False):
            ax.text(centre, -4, text, ha="center", va="bottom", fontsize=LABEL)
        ax.text(self.grid_width + SPACE, -4, panel.note_head, ha="left", va="bottom", fontsize=LABEL)
        for number, text in enumerate(reversed(self.title)):
            y = -self.heads - SPACE - TITLE_LINE * number
            ax.text(0, y, text, ha="left", va="baseline", fontsize=TITLE)
        return ax


def label_width(texts: Sequence[str]) -> int:
    """Width of the labels of rows, with the space beside them, figure pixels."""
    return max((round(_text_width(text, LABEL)) + SPACE + 2 for text in texts if text), default=0)


def _wrapped(title: str, width: int) -> list[str]:
    """The lines of a title, each as long as the width allows."""
    lines: list[str] = []
    for word in title.split():
        if lines and _text_width(f"{lines[-1]} {word}", TITLE) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _text_width(text: str, size: float) -> float:
    """Width of a text in figure pixels; mathematics between dollar signs is measured as its letters."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    width, _, _ = text_to_path.get_text_width_height_descent(text, FontProperties(size=size), "$" in text)
    return float(width) * DPI / 72
