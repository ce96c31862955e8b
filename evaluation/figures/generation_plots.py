"""Figures of generated data: nearest training data, and FID over the number of data points."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from flowvae.data import Dataset
from flowvae.evaluation.figures.drawing import BLUE, GREY, RED, new_figure
from flowvae.evaluation.figures.images import is_image, value_range
from flowvae.evaluation.figures.panels import Panel, axes_beside, columns_within, draw_panels
from flowvae.evaluation.samples.generation import expected_fid
from flowvae.evaluation.samples.memorization import Memorization

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_fid_bias", "plot_memorization"]

PAIRS = 12  # number of pairs of a generated and a training image
HISTOGRAM = 430  # width of the histogram with its labels, figure pixels


def plot_memorization(result: Memorization, data: Dataset) -> Figure:
    """Plot distances of generated and of held-out data to train and, for images, the nearest pairs.

    Args:
        result: result of `measure_memorization`.
        data: the data set of the measurement.
    """
    if is_image(data.shape):
        figure, left = _beside_pairs(result, data)
    else:
        figure = new_figure((6, 4.2))
        left = figure.add_subplot()
    largest = float(torch.cat((result.generated, result.held_out)).max())
    bins = np.linspace(0, largest or 1, 41).tolist()
    left.hist(result.held_out.numpy(), bins=bins, color=GREY, label="held-out data")
    left.hist(result.generated.numpy(), bins=bins, histtype="step", color=BLUE, linewidth=1.6, label="generated data")
    share, error = result.nearer
    left.set(
        title=f"z = {result.z:.1f}; generated is nearer in {share:.0%} ± {error:.0%} of pairs",
        xlabel=f"distance to the nearest training data point, {result.components} principal components, units of x",
        ylabel=f"number of data points, of {len(result.generated)} each",
    )
    left.title.set_fontsize(9)
    for axis in (left.xaxis, left.yaxis):
        axis.label.set_fontsize(8)
    left.legend(frameon=False)
    return figure


def _beside_pairs(result: Memorization, data: Dataset) -> tuple[Figure, Axes]:
    """Draw the nearest pairs of images, and return empty axes left of them."""
    nearest = result.generated.argsort()[:PAIRS]
    pairs = torch.stack((result.samples[nearest].cpu(), data.train[result.neighbours[nearest]].cpu()), 1)
    beside = 3 if columns_within(data.shape, reserved=HISTOGRAM) >= 6 else 1
    panel = Panel(
        data.original(pairs.flatten(0, 1)),
        2 * beside,
        f"the nearest {result.of}, each left of its training image",
        breaks=range(2, 2 * beside, 2),
    )
    height = max(panel.tops[-1], 200)
    panel = replace(panel, room=(HISTOGRAM, 0, height - panel.tops[-1] + 44))
    figure, (grid,) = draw_panels([panel], value_range(data))
    return figure, axes_beside(grid, 50 - HISTOGRAM, 0, HISTOGRAM - 80, height)


def plot_fid_bias(tables: Mapping[str, pd.DataFrame], covariance: Tensor | None = None) -> Figure:
    """Plot FID against 1/n; a single n is not informative, since FID has a large bias at small n.

    To first order FID is its value at n = ∞ plus a constant over n. The lines are fitted by least squares weighted with
    1/variance, and their intercept is this value (Chong & Forsyth 2020, "Effectively Unbiased FID and Inception
    Score").

    Args:
        tables: results of `fid_at_sizes`, with two sizes or more, by name.
        covariance: Σ of the features, (d, d), for the line of `expected_fid` for equal Gaussians.
    """
    figure = new_figure((6.4, 4.4))
    ax = figure.add_subplot()
    looks = (("o", "-", BLUE), ("s", "--", RED), ("^", "-.", "#333333"))
    farthest = 1.05 * max(float((1 / table["n"]).max()) for table in tables.values())
    for (name, table), (marker, line, colour) in zip(tables.items(), looks, strict=False):
        found = table.groupby("n")["fid"].agg(["mean", "std"])
        inverse = 1 / found.index.to_numpy(dtype=float)
        # subsets of nearly all data have almost no spread; bound their weight
        spread = np.maximum(found["std"], found["std"].max() / 10)
        slope, limit = np.polyfit(inverse, found["mean"], 1, w=1 / spread)
        ax.errorbar(inverse, found["mean"], found["std"], fmt=marker, color=colour, capsize=3, linestyle="none")
        reach = np.array([0, farthest])
        ax.plot(reach, limit + slope * reach, line, color=colour, linewidth=1.2, label=f"{name}: {limit:.2f} at n = ∞")
    if covariance is not None:
        reach = np.array([0, farthest])
        ax.plot(reach, expected_fid(covariance, 1) * reach, ":", color="black", label="equal Gaussians, theory")
    ax.set(
        xlabel="1 / n,  n data of each",
        ylabel="FID, variances of a feature",
        title="bars: standard deviation over random subsets",
        xlim=(0, farthest),
        ylim=(0, None),
    )
    ax.title.set_fontsize(9)
    above = ax.secondary_xaxis("top")
    sizes = sorted({int(n) for table in tables.values() for n in table["n"]})
    above.set_xticks([1 / n for n in sizes], [f"n = {n}" for n in sizes], fontsize=7)
    ax.legend(frameon=False, fontsize=8)
    return figure
