"""Figures of images: the file shows every pixel of an image as a square, and texts keep clear of images."""

from __future__ import annotations

from io import BytesIO
from itertools import combinations

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from flowvae.evaluation.figures.images import image_grid
from flowvae.evaluation.figures.panels import WIDTH, Panel, axes_beside, columns_within, draw_panels, rows_within

SHAPES = [(1, 28, 28), (3, 32, 32), (1, 8, 8), (3, 64, 64), (1, 28, 20), (3, 5, 9)]


def noise(count: int, *shape: int) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(0))


def pixels(figure: Figure, **how: object) -> NDArray[np.uint8]:
    """What a file of the figure holds, (height, width, 3)."""
    file = BytesIO()
    figure.savefig(file, format="png", **how)  # type: ignore[arg-type]
    return np.asarray(Image.open(file).convert("RGB"))


def corner(figure: Figure, ax: Axes) -> tuple[float, float]:
    """Upper left of axes in figure pixels."""
    (width, height), box = figure.get_size_inches() * figure.dpi, ax.get_position()
    return box.x0 * width, (1 - box.y1) * height


@pytest.mark.parametrize("sharpness", [1, 2, 3])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_file_holds_every_pixel_exactly(shape: tuple[int, ...], sharpness: int) -> None:
    panels = [
        Panel(noise(11, *shape), 4, "a title", ["a", "label"], breaks=[1], row_breaks=[2]),
        Panel(noise(4, *shape), 2, "another title that takes several lines because it is long", notes=["note"]),
    ]
    figure, axes = draw_panels(panels, (0, 1))
    found = pixels(figure, dpi=sharpness * figure.dpi)
    for panel, ax in zip(panels, axes, strict=True):
        grid = image_grid(panel.images, (0, 1), panel.columns, panel.breaks, panel.row_breaks)
        left, top = (round(side) for side in corner(figure, ax))
        assert corner(figure, ax) == pytest.approx((left, top), abs=1e-6)
        grid = grid.repeat(sharpness, 0).repeat(sharpness, 1)
        top, left = sharpness * top, sharpness * left
        np.testing.assert_array_equal(found[top : top + grid.shape[0], left : left + grid.shape[1]], grid)


def test_a_notebook_that_crops_figures_holds_every_pixel_exactly() -> None:
    panel = Panel(noise(6, 1, 28, 28), 3, "a title")
    figure, (ax,) = draw_panels([panel], (0, 1))
    grid = image_grid(panel.images, (0, 1), 3)
    found = pixels(figure, dpi=figure.dpi, bbox_inches="tight")  # with a margin of 0.1 inch
    left, top = (round(side) + 10 for side in corner(figure, ax))
    np.testing.assert_array_equal(found[top : top + grid.shape[0], left : left + grid.shape[1]], grid)


def test_a_notebook_shows_a_figure_at_half_the_size_of_its_file() -> None:
    figure, _ = draw_panels([Panel(noise(6, 1, 28, 28), 3, "a title")], (0, 1))
    png, size = figure._repr_png_()  # type: ignore[attr-defined]
    width, height = Image.open(BytesIO(png)).size
    assert (width, height) == (2 * size["width"], 2 * size["height"])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_texts_keep_clear_of_images_and_of_each_other(shape: tuple[int, ...]) -> None:
    panels = [
        Panel(
            noise(12, *shape), 4, "a title of several words, some of them long",
            labels=["a label", "x", "$z_{12}$"], notes=["0.12", "a note"], heads=["x", "", "99.9 %"], note_head="head",
        ),
        Panel(noise(4, *shape), 2, "short"),
        Panel(noise(4, *shape), 2),
    ]  # fmt: skip
    figure, axes = draw_panels(panels, (0, 1))
    pixels(figure)
    width, height = figure.get_size_inches() * figure.dpi
    boxes = [text.get_window_extent() for ax in axes for text in ax.texts if text.get_text()]
    grids = [ax.get_window_extent() for ax in axes]
    for box in (*boxes, *grids):
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= width
        assert box.y1 <= height
    for one, other in combinations([*boxes, *grids], 2):
        assert min(one.x1, other.x1) <= max(one.x0, other.x0) or min(one.y1, other.y1) <= max(one.y0, other.y0)


@pytest.mark.parametrize("panels", [1, 2, 3])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_as_many_columns_as_fit_into_a_page(shape: tuple[int, ...], panels: int) -> None:
    columns = columns_within(shape, panels)

    def width(each: int) -> float:
        figure, axes = draw_panels([Panel(noise(2 * each, *shape), each) for _ in range(panels)], (0, 1))
        assert len({corner(figure, ax)[1] for ax in axes}) == 1 or each > columns
        return float(figure.get_size_inches()[0] * figure.dpi)

    assert width(columns) <= WIDTH + 1e-6
    if panels == 1:
        assert width(columns + 1) > WIDTH


def test_what_does_not_fit_goes_into_a_new_line() -> None:
    columns = columns_within((1, 28, 28))
    figure, axes = draw_panels([Panel(noise(columns, 1, 28, 28), columns) for _ in range(2)], (0, 1))
    (left, top), (other, below) = (corner(figure, ax) for ax in axes)
    assert left == pytest.approx(other)
    assert below > top + 57


def test_a_large_image_is_drawn_although_it_is_wider_than_a_page() -> None:
    assert columns_within((3, 900, 1200)) == 1
    assert rows_within((3, 900, 1200)) == 2
    figure, _ = draw_panels([Panel(noise(1, 3, 900, 1200), 1)], (0, 1))
    assert figure.get_size_inches()[0] * figure.dpi > 1200


def test_axes_beside_a_grid_are_where_they_were_asked_for() -> None:
    panel = Panel(noise(4, 1, 28, 28), 2, room=(0, 200, 0))
    figure, (ax,) = draw_panels([panel], (0, 1))
    beside = axes_beside(ax, 140, 10, 50, 30)
    pixels(figure)
    box, grid = beside.get_window_extent(), ax.get_window_extent()
    assert (box.x0 - grid.x0, grid.y1 - box.y1, box.width, box.height) == pytest.approx((140, 10, 50, 30))
