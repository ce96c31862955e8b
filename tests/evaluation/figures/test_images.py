"""Images in figures: what counts as one, where its pixels are, which value is black and which white."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from picture_cases import WatchedSource

from flowvae.core.errors import FlowvaeError
from flowvae.core.parts import parse_likelihood
from flowvae.data import Dataset
from flowvae.evaluation.figures.images import (
    as_rgb,
    cells,
    check_images,
    image_grid,
    image_scale,
    is_image,
    range_of,
    value_range,
)


def images(*shape: int, likelihood: str = "gaussian:shared", count: int = 6) -> Dataset:
    x = torch.rand(3 * count, *shape, generator=torch.Generator().manual_seed(0))
    return Dataset(*x.split(count), likelihood, "noise", "none", "in order")  # type: ignore[misc, arg-type]


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
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("channels", [1, 3])
def test_every_pixel_has_its_place(channels: int) -> None:
    """Image 4 of rows of three is in the second row and column, one pixel after the line that neighbours share."""
    x = torch.arange(6 * channels * 4 * 5).reshape(6, channels, 4, 5) / (6 * channels * 20 - 1)
    grid = image_grid(x, (0, 1), columns=3, scale=2)
    assert grid.shape == (2 * 9 + 1, 3 * 11 + 1, 3)
    found = grid[10:18, 12:22]
    expected = (255 * x[4].expand(3, 4, 5)).round().numpy().astype(np.uint8)
    for row in range(8):
        for column in range(10):
            assert found[row, column].tolist() == expected[:, row // 2, column // 2].tolist()
    line = grid[9]
    assert (line == line[0, 0]).all()
    assert (grid[:, 11] == line[0, 0]).all()


def test_an_empty_place_is_white() -> None:
    x = torch.stack((torch.zeros(1, 2, 2), torch.full((1, 2, 2), torch.nan)))
    grid = image_grid(x, (0, 1), columns=2, scale=1)
    assert (grid[1:3, 1:3] == 0).all()
    assert (grid[:, 4:] == 255).all()


@pytest.mark.parametrize(
    ("breaks", "starts"),
    [((), [0, 5, 10, 15]), ((1,), [0, 13, 18, 23]), ((2, 2), [0, 5, 26, 31]), ((0,), [0, 5, 10, 15])],
)
def test_groups_are_apart(breaks: tuple[int, ...], starts: list[int]) -> None:
    assert cells(4, 4, 1, breaks) == [*starts, starts[-1] + 6]


def test_large_pixels_have_wider_lines_between_images() -> None:
    assert cells(2, 8, 7) == [0, 59, 59 + 3 + 56 + 3]


@pytest.mark.parametrize(
    ("side", "scale"),
    [((8, 8), 7), ((28, 28), 2), ((32, 32), 2), ((28, 20), 2), ((64, 64), 1), ((300, 9), 1), ((1, 1), 56)],
)
def test_pixels_are_drawn_as_squares_of_whole_pixels(side: tuple[int, int], scale: int) -> None:
    assert image_scale((1, *side)) == scale


@pytest.mark.parametrize("channels", [1, 3])
def test_no_image_is_a_negative(channels: int) -> None:
    """The least value is black, the largest one white, in grey and in colour."""
    ends = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1).expand(2, channels, 1, 1)
    assert as_rgb(ends, (0, 1)).reshape(2, 3).tolist() == [[0, 0, 0], [255, 255, 255]]


def test_colours_are_red_green_and_blue_within_their_range() -> None:
    picture = as_rgb(torch.tensor([-0.5, 0.4, 1.5]).reshape(3, 1, 1), (0, 1))
    assert picture.shape == (1, 1, 3)
    assert picture.flatten().tolist() == [0, 102, 255]


@pytest.mark.parametrize(
    ("likelihood", "values", "expected"),
    [
        ("bernoulli", [0.0, 0.0], (0, 1)),
        ("binomial:255", [3.0, 200.0], (0, 255)),
        ("gaussian", [0.0, 0.999], (0, 1)),  # grey levels / 255
        ("gaussian", [0.0, 0.02], (0, 0.02)),
        ("gaussian", [-1.0, 1.0], (-1, 1)),
        ("gaussian", [30.0, 200.0], (30, 200)),
        ("gaussian", [2.0, 2.0], (2, 3)),
        ("poisson", [4.0, 90.0], (0, 90)),
    ],
)
def test_black_and_white(likelihood: str, values: list[float], expected: tuple[float, float]) -> None:
    assert range_of(parse_likelihood(likelihood), torch.tensor(values)) == pytest.approx(expected)


def test_outliers_do_not_set_the_range() -> None:
    x = torch.cat((torch.linspace(-1, 1, 10_001), torch.tensor([1000.0])))
    low, high = range_of(parse_likelihood("gaussian"), x)
    assert low == pytest.approx(-1, abs=0.01)
    assert high == pytest.approx(1, abs=0.01)


def test_the_original_units_are_drawn() -> None:
    data = replace(images(1, 2, 2), offset=torch.full((1, 2, 2), 3.0, dtype=torch.float64))
    low, high = value_range(data)
    assert (low, high) == pytest.approx((3 + data.train.min().item(), 3 + data.train.max().item()), abs=1e-6)


def test_few_data_of_a_source_are_read_for_the_range(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are spread over the data, which may be in an order."""
    monkeypatch.setattr("flowvae.evaluation.figures.images.VALUES", 40)
    x = torch.linspace(-2, 2, 4000).reshape(1000, 1, 2, 2)
    source = WatchedSource(x)
    data = Dataset(source, x[:1], x[:1], "gaussian", "ramp", "none", "one")  # type: ignore[arg-type]
    source.all = 0
    assert value_range(data) == pytest.approx((-2, 2))
    assert source.all == 10
    zeros = WatchedSource(torch.zeros(9, 1, 2, 2))
    bits = Dataset(zeros, x[:1] * 0, x[:1] * 0, "bernoulli", "bits", "none", "one")  # type: ignore[arg-type]
    zeros.all = 0
    assert value_range(bits) == (0, 1)
    assert zeros.all == 0
