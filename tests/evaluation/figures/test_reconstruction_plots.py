"""The figure of reconstructions: which image stands where."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from picture_cases import colours, pictures, shown, small_pair

from flowvae import FlowvaeError
from flowvae.core.seeds import derive, seeded
from flowvae.evaluation.figures.reconstruction_plots import plot_reconstructions


@pytest.mark.parametrize("draws", [1, 3])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 64, 64)], ids=str)
def test_images_stand_above_their_reconstructions(shape: tuple[int, ...], draws: int) -> None:
    """Twelve test images; as many as fit into a row, in one or two rows."""
    data = pictures(*shape)
    model, guide = small_pair(data)
    (ax,) = plot_reconstructions(model, guide, data, seed=2, draws=draws).axes
    columns = 13 if shape[-1] == 28 else 11
    x = data.test[: (2 if draws == 1 else 1) * columns]
    with seeded(derive(2, "reconstructions")):
        rebuilt = [model.mean(guide.posterior(x).sample()) for _ in range(draws)]
    for number in {0, 10, len(x) - 1}:
        block, column = divmod(number, columns)
        for below, images in enumerate((x, *rebuilt)):
            found = shown(ax, data, block * (1 + draws) + below, column, row_breaks=[1 + draws])
            np.testing.assert_array_equal(found, colours(images[number], data))


def test_rows_that_are_no_images_are_lines() -> None:
    data = replace(
        pictures(1, 1, 6), train=torch.rand(20, 6), valid=torch.rand(9, 6), test=torch.rand(3, 6), labels=None
    )
    model, guide = small_pair(data)
    (ax,) = plot_reconstructions(model, guide, data, seed=2, draws=2, split="valid").axes
    dots, lines = ([line for line in ax.lines if line.get_marker() == mark] for mark in ("o", "None"))
    assert (len(dots), len(lines)) == (4, 8)
    assert "4 valid" in ax.get_title()
    with seeded(derive(2, "reconstructions")):
        first = model.mean(guide.posterior(data.valid[:4]).sample())
    np.testing.assert_allclose(np.stack([line.get_ydata() for line in lines[::2]]), first.detach(), rtol=1e-6)


def test_no_draws_are_refused() -> None:
    data = pictures(1, 4, 4)
    with pytest.raises(FlowvaeError, match="0"):
        plot_reconstructions(*small_pair(data), data, draws=0)
