"""Small models of images, and single images of a drawn grid."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from helpers import disturb
from matplotlib.axes import Axes
from numpy.typing import NDArray
from torch import Size, Tensor

from flowvae import MAF, Condition, Experiment
from flowvae.core.registry import families
from flowvae.data import Dataset
from flowvae.evaluation.figures.images import as_rgb, cells, image_scale, line_width, value_range
from flowvae.experiments.assemble import ModelGuide
from flowvae.networks import MLP

__all__ = ["WatchedSource", "colours", "pictures", "shown", "small_pair"]


class WatchedSource:
    """Data that notes how many rows were read of it, in all and at most at a time."""

    def __init__(self, x: Tensor) -> None:
        self.x, self.most, self.all = x, 0, 0

    @property
    def shape(self) -> Size:
        return Size(self.x.shape)

    @property
    def dtype(self) -> torch.dtype:
        return self.x.dtype

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: Tensor) -> Tensor:
        self.most, self.all = max(self.most, len(index)), self.all + len(index)
        return self.x[index]

    def batches(self, order: Iterable[Tensor]) -> Iterator[Tensor]:
        return (self[index] for index in order)


def pictures(
    *shape: int, rows: int = 40, likelihood: str = "gaussian", labels: Any = None, classes: tuple[str, ...] = ()
) -> Dataset:
    """Noise in the units of the likelihood; labels 0, 1, 2 unless others are given."""
    x = torch.rand(rows + 20, *shape, generator=torch.Generator().manual_seed(0))
    x = x.round() if likelihood == "bernoulli" else (x * 255).round() if "255" in likelihood else x
    splits = dict(zip(("train", "valid", "test"), x.split([rows, 8, 12]), strict=True))
    numbers = {name: torch.arange(len(part)) % 3 for name, part in splits.items()} if labels is None else labels
    return Dataset(
        **splits,
        likelihood=likelihood,  # type: ignore[arg-type]
        name="noise",
        preprocessing="none",
        split="in order",
        labels=numbers,
        classes=classes,
    )


def small_pair(
    data: Dataset, prior: str = "maf", condition: Condition | None = None, latent: int | tuple[int, ...] = 3
) -> ModelGuide:
    """A model whose prior is not N(0, I)."""
    chosen = MAF(2, (8,)) if prior == "maf" else families("prior")[prior].default
    experiment = Experiment(
        latent=latent, encoder=MLP((8,)), decoder=MLP((8,)), prior=chosen, condition=condition
    )  # fmt: skip
    torch.manual_seed(0)
    pair = experiment.build(data)
    disturb(pair.model.prior, 0.3)
    return pair


def shown(
    ax: Axes, data: Dataset, row: int, column: int, breaks: Sequence[int] = (), row_breaks: Sequence[int] = ()
) -> NDArray[np.uint8]:
    """The image in a row and a column of a drawn grid, (H, W, 3), one value a pixel of the image."""
    grid, scale, (_, height, width) = np.asarray(ax.images[0].get_array()), image_scale(data.shape), data.shape
    top = cells(row + 1, height, scale, row_breaks)[row] + line_width(scale)
    left = cells(column + 1, width, scale, breaks)[column] + line_width(scale)
    return grid[top : top + scale * height : scale, left : left + scale * width : scale]


def colours(x: Tensor, data: Dataset) -> NDArray[np.uint8]:
    """The colours in which images of a data set must be drawn."""
    return as_rgb(data.original(x.detach()), value_range(data))
