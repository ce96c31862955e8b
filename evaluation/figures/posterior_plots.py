"""Figures of posteriors and of guides that approximate them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowvae.core.errors import FlowvaeError, shown
from flowvae.evaluation.figures.drawing import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_funnel"]

POINTS = 3000  # reference draws in a panel, and draws for a contour
MASS = (0.5, 0.8, 0.95)  # mass of the guide inside each contour
NODES = 100  # nodes per side of the grid of a density


def plot_funnel(
    reference: Mapping[str, ArrayLike],
    guides: Mapping[str, Mapping[str, ArrayLike]],
    location: str = "mu",
    scale: str = "tau",
) -> Figure:
    """Plot a hierarchical model's location against its log-scale: reference draws and contours of each guide.

    Args:
        reference: draws of the true posterior by parameter, of any shape.
        guides: draws of each guide, by title and parameter.
        location: parameter on the horizontal axis.
        scale: positive parameter on the vertical axis.

    Raises:
        FlowvaeError: if there is no guide, or draws lack a parameter.
    """
    from scipy.stats import gaussian_kde

    if not guides:
        raise FlowvaeError("plot_funnel: no guides given; pass the draws of one or more.")
    truth = _pair(reference, location, scale, "reference")
    left, right = np.quantile(truth[0], (0.001, 0.999))
    lower, upper = np.quantile(truth[1], (0.0005, 0.9995))
    low, high = np.array([left, lower]), np.array([right, upper])
    low, high = low - 0.08 * (high - low), high + 0.08 * (high - low)
    across, up = (np.linspace(low[axis], high[axis], NODES) for axis in (0, 1))
    grid = np.stack([axis.ravel() for axis in np.meshgrid(across, up)])
    columns = min(3, len(guides))
    rows = -(-len(guides) // columns)
    figure = new_figure((3.1 * columns, 2.9 * rows + 0.3))
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for place, (ax, (title, draws)) in enumerate(zip(panels.ravel(), guides.items(), strict=False)):
        ax.scatter(*truth, s=2, color="#a8a8a8", linewidths=0, label="reference draws", rasterized=True)
        drawn = _pair(draws, location, scale, title)
        kernel = gaussian_kde(drawn)
        height = np.sort(kernel(drawn[:, :500]))
        levels = sorted(np.quantile(height, 1 - np.array(MASS)))
        ax.contour(across, up, kernel(grid).reshape(NODES, NODES), levels=levels, colors="#12355b", linewidths=1.2)
        ax.set(title=title, xlim=(low[0], high[0]), ylim=(low[1], high[1]))
        if place % columns == 0:
            ax.set_ylabel(f"log {scale}")
        if place >= len(guides) - columns:
            ax.set_xlabel(location)
            ax.tick_params(labelbottom=True)
    for ax in panels.ravel()[len(guides) :]:
        ax.remove()
    masses = ", ".join(f"{mass:.0%}" for mass in MASS)
    figure.suptitle(f"dots: draws of the true posterior; lines: {masses} of the mass of each guide", fontsize=9)
    return figure


def _pair(draws: Mapping[str, ArrayLike], location: str, scale: str, title: str) -> NDArray[Any]:
    """Location and log-scale of up to POINTS evenly spaced draws, shape (2, n)."""
    for name in (location, scale):
        if name not in draws:
            raise FlowvaeError(f"plot_funnel: {title} has no draws of {shown(name)}; it has {', '.join(draws)}.")
    x, y = (np.asarray(draws[name], dtype=np.float64).ravel() for name in (location, scale))
    keep = np.linspace(0, len(x) - 1, min(POINTS, len(x))).astype(int)
    return np.stack((x[keep], np.log(y[keep])))
