"""Images in figures: what counts as one, where its pixels are, its colours."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from flowvae.core.errors import FlowvaeError
from flowvae.data import Dataset
from flowvae.evaluation.figures.images import as_picture, check_images, image_grid, is_image, show_images, value_range
from flowvae.models import GaussianLikelihood


def images(*shape: int, count: int = 6) -> Dataset:
    x = torch.rand(3 * count, *shape, generator=torch.Generator().manual_seed(0))
    return Dataset(*x.split(count), GaussianLikelihood(shared=True), "noise", "none", "in order")  # type: ignore[misc]


@pytest.mark.parametrize(
    ("shape", "image"),
    [((1, 8, 8), True), ((3, 4, 6), True), ((2, 8, 8), False), ((8, 8, 3), False), ((64,), False), ((1, 64), False)],
)
def test_images_have_one_or_three_channels(shape: tuple[int, ...], image: bool) -> None:
    data = images(*shape)
    assert is_image(data.shape) == image
    if image:
        check_images(data)
    else:
        with pytest.raises(FlowvaeError) as refused:
            check_images(data)
        assert str(shape) in str(refused.value)


@pytest.mark.parametrize("channels", [1, 3])
def test_every_pixel_has_its_place(channels: int) -> None:
    """Image 4 of rows of three is in the second row and column, each image with a frame of one pixel."""
    data = images(channels, 4, 5)
    grid = image_grid(data.test, data, row=3)
    assert grid.shape == (2 * 5 + 1, 3 * 6 + 1) + (3,) * (channels == 3)
    found = grid[6:10, 7:12]
    expected = data.test[4] / data.train.max()
    np.testing.assert_allclose(found, expected[0] if channels == 1 else expected.permute(1, 2, 0).clamp(0, 1))
    assert (grid[5] == 0.5).all()


def test_the_original_units_are_drawn() -> None:
    data = images(1, 2, 2)
    moved = replace(data, offset=torch.full((1, 2, 2), 3.0, dtype=torch.float64))
    top = data.train.max().item() + 3
    assert value_range(moved) == pytest.approx((0, top))
    expected = (data.test[0, 0].double() + 3) / top
    np.testing.assert_allclose(image_grid(moved.test, moved)[1:3, 1:3], expected, rtol=1e-6)


@pytest.mark.parametrize(("least", "most"), [(-1.0, 1.0), (-80.0, -60.0)])
def test_values_below_zero_are_drawn_in_their_order(least: float, most: float) -> None:
    x = torch.linspace(least, most, 32).reshape(2, 1, 4, 4)
    data = replace(images(1, 4, 4), train=x, valid=x, test=x)
    assert value_range(data) == pytest.approx((least, most))
    np.testing.assert_allclose(image_grid(x, data)[1:5, 1:5].flatten(), torch.linspace(0, 1, 32)[:16], atol=1e-6)


def test_colours_stay_within_their_range() -> None:
    picture = as_picture(torch.tensor([-0.5, 0.5, 1.5]).reshape(3, 1, 1))
    assert picture.shape == (1, 1, 3)
    assert picture.flatten().tolist() == [0.0, 0.5, 1.0]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_is_drawn_with_its_title(channels: int) -> None:
    data = images(channels, 4, 5)
    ax = Figure().add_subplot()
    show_images(ax, data.test, data, "six images", row=3)
    (image,) = ax.images
    assert image.get_array().shape[:2] == (11, 19)
    assert ax.get_title() == "six images"
