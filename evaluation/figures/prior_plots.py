"""Figures of the latent space of a fitted VAE: the prior beside the aggregated posterior."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from flowvae.core.errors import FlowvaeError, IntractableError
from flowvae.core.seeds import derive, seeded
from flowvae.data import Dataset
from flowvae.evaluation.figures.drawing import BLUE, new_figure, on_grid
from flowvae.evaluation.figures.inputs import first_of, prior_draws
from flowvae.evaluation.latent.principal_plane import axis_label, principal_plane
from flowvae.guides import AmortizedGuide
from flowvae.models import VAE
from flowvae.networks import in_eval_mode

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection
    from matplotlib.figure import Figure

__all__ = ["plot_latent", "plot_priors"]

POINTS = 2000  # points in a cloud
QUANTILE = 0.99  # quantile of the coordinates of prior draws at the ends of the axes, which outliers would widen
NODES = 161  # nodes per side of the grid of a density


@torch.no_grad()
@in_eval_mode
def plot_latent(model: VAE, guide: AmortizedGuide, data: Dataset, seed: int = 0) -> Figure:
    """Plot the prior beside the aggregated posterior, with density contours if 2-D, else by principal components.

    The aggregated posterior is shown by the guide's draws for test data, one per data point, coloured by label if there
    are labels. A conditional prior is sampled for the conditions of the test data. It has no contours, and neither has
    a prior whose density is an integral.
    """
    batch = first_of(data, POINTS, model)
    with seeded(derive(seed, "latent")):
        codes = guide.posterior(*batch.args).sample().numpy(force=True)
        drawn = prior_draws(model, max(len(codes), 1000), batch.c).numpy(force=True)
    latent = codes.shape[1]
    plane = principal_plane(np.concatenate((codes, drawn)))
    if plane:
        codes, drawn = plane.transform(codes), plane.transform(drawn)
    if latent == 1:
        return _plot_line(codes[:, 0], drawn[:, 0])
    figure = new_figure((9, 4.9))
    left = figure.add_subplot(1, 2, 1)
    right = figure.add_subplot(1, 2, 2, sharex=left, sharey=left)
    reach = 1.08 * max(np.abs(codes).max(), np.quantile(np.abs(drawn), QUANTILE))
    outside = int((np.abs(drawn) > reach).any(1).sum())
    contoured = latent == 2 and _has_density(model, batch.c)
    if contoured:
        for ax in (left, right):
            _contours(ax, model, reach, batch.c)
    left.scatter(drawn[:, 0], drawn[:, 1], s=4, alpha=0.4, color="#555555", linewidths=0)
    colours = _colours(data, len(codes))
    cloud = right.scatter(codes[:, 0], codes[:, 1], s=5, alpha=0.8, linewidths=0, **colours)
    if "c" in colours:
        right.legend(*_legend(cloud, data), frameon=False, fontsize=7, loc="upper right", title="label")
    contours = ", contours of the prior's density" if contoured else ""
    far = f" ({outside} of {len(drawn)} farther away)" if outside else ""
    left.set(title=f"prior p(z): draws{far}{contours}")
    right.set(title=f"aggregated posterior: codes of test data{contours and ', same contours'}")
    for ax in (left, right):
        ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
        ax.set(xlabel=axis_label("z", 1, plane), ylabel=axis_label("z", 2, plane))
        ax.title.set_fontsize(9)
    return figure


@torch.no_grad()
@in_eval_mode
def plot_priors(pairs: Mapping[str, tuple[VAE, AmortizedGuide]], data: Dataset, seed: int = 0) -> Figure:
    """Plot the densities of several 2-D priors side by side, each above its aggregated posterior.

    Raises:
        FlowvaeError: if a latent space is not 2-D, or a prior is conditional.
    """
    figure = new_figure((2.9 * len(pairs), 5.9))
    for place, (title, (model, guide)) in enumerate(pairs.items(), start=1):
        batch = first_of(data, POINTS, model)
        with seeded(derive(seed, "latent")):
            codes = guide.posterior(*batch.args).sample().numpy(force=True)
        if codes.shape[1] != 2:
            raise FlowvaeError(f"latent = {codes.shape[1]}: this figure needs a 2-D latent space; use plot_latent.")
        reach = 1.05 * np.quantile(np.abs(codes), 0.999)
        above, below = figure.add_subplot(2, len(pairs), place), figure.add_subplot(2, len(pairs), len(pairs) + place)
        _, density = _density(model, reach, batch.c)
        # the square root makes tails visible
        above.imshow(np.sqrt(density), extent=(-reach, reach, -reach, reach), origin="lower", cmap="Greys")
        below.scatter(codes[:, 0], codes[:, 1], s=3, alpha=0.7, linewidths=0, **_colours(data, len(codes)))
        above.set(title=f"{title}: density of the prior", ylabel="$z_2$")
        below.set(title="codes of test data", xlabel="$z_1$", ylabel="$z_2$")
        for ax in (above, below):
            ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
            ax.title.set_fontsize(9)
    return figure


def _plot_line(codes: np.ndarray[Any, Any], drawn: np.ndarray[Any, Any]) -> Figure:
    figure = new_figure((7, 4.2))
    ax = figure.add_subplot()
    bins = np.linspace(min(codes.min(), drawn.min()), max(codes.max(), drawn.max()), 60).tolist()
    ax.hist(drawn, bins=bins, density=True, alpha=0.4, color="#555555", label="prior p(z)")
    ax.hist(codes, bins=bins, density=True, histtype="step", color=BLUE, label="aggregated posterior")
    ax.set(xlabel="z", ylabel="density", title="prior and aggregated posterior")
    ax.legend(frameon=False)
    return figure


def _legend(cloud: PathCollection, data: Dataset) -> tuple[list[Any], list[str]]:
    """Handles and texts of the legend of a point cloud: numbers or names of the classes."""
    if not data.classes or data.labels is None:
        handles, numbers = cloud.legend_elements()
        return handles, numbers
    drawn = np.unique(np.asarray(cloud.get_array()))
    handles, _ = cloud.legend_elements(num=drawn.tolist())
    labels = data.labels["test"].unique()
    return handles, [data.classes[int(labels[int(number)])] for number in drawn]


def _colours(data: Dataset, count: int) -> dict[str, Any]:
    """Colours by label, if there are at most ten labels."""
    labels = (data.labels or {}).get("test")
    if labels is None or len(labels.unique()) > 10:
        return {"color": BLUE}
    _, number = labels.unique(return_inverse=True)
    return {"c": number[:count].numpy(force=True), "cmap": "tab10", "vmin": 0, "vmax": 9}


def _density(model: VAE, reach: float, c: Tensor | None) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Nodes per side, and the density of the prior on their grid."""
    prior = model.prior() if c is None else model.prior_given(c)
    if prior.batch_shape:
        raise FlowvaeError("the prior is conditional, so it has no single density; use plot_latent.")
    side = torch.linspace(-reach, reach, NODES, device=next(model.parameters()).device)
    return side.numpy(force=True), np.exp(on_grid(prior.log_prob, side, side))


def _has_density(model: VAE, c: Tensor | None) -> bool:
    """Whether the prior has a single density that can be computed."""
    prior = model.prior() if c is None else model.prior_given(c)
    if prior.batch_shape:
        return False
    try:
        prior.log_prob(torch.zeros(prior.event_shape, device=next(model.parameters()).device))
    except IntractableError:
        return False
    return True


def _contours(ax: Axes, model: VAE, reach: float, c: Tensor | None) -> None:
    side, density = _density(model, reach, c)
    ax.contour(side, side, density, levels=density.max() * np.geomspace(0.01, 0.9, 7), cmap="Greys_r", linewidths=0.7)
