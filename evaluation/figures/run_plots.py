"""Figures of a fitted VAE: samples, reconstructions, latent space, training history."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from flowvae.core.errors import FlowvaeError
from flowvae.core.files import as_path, atomic_write
from flowvae.core.progress import bar
from flowvae.core.seeds import derive, seeded
from flowvae.data import Batch, Dataset, batch_of, first, preview
from flowvae.evaluation.figures.drawing import BLUE, RED, new_figure, on_grid
from flowvae.evaluation.figures.images import is_image, show_images
from flowvae.evaluation.latent.principal_plane import axis_label, principal_plane
from flowvae.guides import AmortizedGuide
from flowvae.models import VAE
from flowvae.networks import in_eval_mode

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection
    from matplotlib.figure import Figure

__all__ = [
    "draw_figures",
    "plot_history",
    "plot_latent",
    "plot_priors",
    "plot_reconstructions",
    "plot_samples",
    "write_figure",
]

IMAGES = 64  # in a grid, 8 per row
POINTS = 2000  # in a cloud
NODES = 161  # per side of the grid of a density


def draw_figures(
    model: VAE,
    guide: AmortizedGuide,
    data: Dataset,
    history: pd.DataFrame,
    directory: Path,
    seed: int = 0,
    progress: bool = False,
) -> list[Path]:
    """Write all figures that apply to the data as PNG: samples, reconstructions, latent, history.

    With `progress` a bar shows how many are written.

    Returns:
        The paths of the files.
    """
    directory = as_path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    figures = {
        "samples": partial(plot_samples, model, data, seed),
        "reconstructions": partial(plot_reconstructions, model, guide, data, seed),
        "latent": partial(plot_latent, model, guide, data, seed),
        "history": partial(plot_history, history),
    }
    paths = []
    for name, draw in bar("figures", "figure", len(figures), figures.items(), progress):
        paths.append(directory / f"{name}.png")
        write_figure(draw(), paths[-1])
    return paths


def write_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, atomically, and create its folder if needed."""
    path = as_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


@torch.no_grad()
@in_eval_mode
def plot_samples(model: VAE, data: Dataset, seed: int = 0) -> Figure:
    """Plot test data beside generated data, as images or as a scatter plot of two directions.

    A conditional model generates given the conditions of the test data.
    """
    c = _test(data, IMAGES if is_image(data.shape) else POINTS, model).c
    if is_image(data.shape):
        with seeded(derive(seed, "samples")):
            _, generated = model.generate(IMAGES) if c is None else model.generate(c=c)
        figure = new_figure((9, 4.8))
        show_images(figure.add_subplot(1, 2, 1), first(data.test, IMAGES), data, f"{data.name}: test images")
        show_images(figure.add_subplot(1, 2, 2), generated, data, "generated: mean of x for z from the prior")
        return figure
    with seeded(derive(seed, "samples")):
        codes = _prior_draws(model, min(POINTS, len(data.test)), c)
        generated = (model.decode(codes) if c is None else model.decode(codes, c)).sample().flatten(1)
    figure = new_figure((9, 4.6))
    test = preview(data.test).flatten(1)
    centre = test.mean(0)
    plane = principal_plane((test - centre).numpy(force=True))
    left = None
    for place, (x, title) in enumerate(((test[:POINTS], f"{data.name}: test data"), (generated, "generated")), start=1):
        ax = figure.add_subplot(1, 2, place, sharex=left, sharey=left)
        left = left or ax
        points = (x.cpu() - centre.cpu()).numpy(force=True)
        points = plane.transform(points) if plane else points
        ax.scatter(points[:, 0], points[:, -1], s=4, alpha=0.5, color=BLUE, linewidths=0)
        ax.set(title=title, xlabel=axis_label("x", 1, plane), ylabel=axis_label("x", min(2, data.features), plane))
    return figure


@torch.no_grad()
@in_eval_mode
def plot_reconstructions(model: VAE, guide: AmortizedGuide, data: Dataset, seed: int = 0) -> Figure:
    """Plot test data above their reconstructions E[x given z] with z drawn from the guide."""
    batch = _test(data, 16, model)
    x, *given = batch.args
    with seeded(derive(seed, "reconstructions")):
        rebuilt = model.mean(guide.posterior(x, *given).sample(), *given)
    if is_image(data.shape):
        figure = new_figure((9, 2.2))
        show_images(
            figure.add_subplot(),
            torch.cat((x, rebuilt)),
            data,
            "test images (above), reconstructions (below)",
            row=16,
        )
        return figure
    x, rebuilt = data.original(x).flatten(1), data.original(rebuilt).flatten(1)
    figure = new_figure((9, 4.2))
    ax = figure.add_subplot()
    for row in range(min(4, len(x))):
        colour = f"C{row}"
        ax.plot(x[row].numpy(force=True), "o", color=colour, markersize=4, label="data point" if row == 0 else None)
        ax.plot(rebuilt[row].numpy(force=True), "-", color=colour, label="reconstruction" if row == 0 else None)
    ax.set(title=f"{data.name}: four test data points and their reconstructions", xlabel="column of x", ylabel="value")
    ax.legend(frameon=False)
    return figure


@torch.no_grad()
@in_eval_mode
def plot_latent(model: VAE, guide: AmortizedGuide, data: Dataset, seed: int = 0) -> Figure:
    """Plot the prior beside the aggregated posterior, with density contours if 2-D, else by principal components.

    The aggregated posterior is shown by the guide's draws for test data, one per data point, coloured by label if there
    are labels. A conditional prior is sampled for the conditions of the test data and has no contours.
    """
    batch = _test(data, POINTS, model)
    with seeded(derive(seed, "latent")):
        codes = guide.posterior(*batch.args).sample().numpy(force=True)
        drawn = _prior_draws(model, max(len(codes), 1000), batch.c).numpy(force=True)
    contoured = batch.c is None or not model.prior_given(batch.c).batch_shape
    latent = codes.shape[1]
    plane = principal_plane(np.concatenate((codes, drawn)))
    if plane:
        codes, drawn = plane.transform(codes), plane.transform(drawn)
    if latent == 1:
        return _plot_line(codes[:, 0], drawn[:, 0])
    figure = new_figure((9, 4.9))
    left = figure.add_subplot(1, 2, 1)
    right = figure.add_subplot(1, 2, 2, sharex=left, sharey=left)
    reach = 1.08 * np.abs(np.concatenate((codes, drawn))).max()
    if latent == 2 and contoured:
        for ax in (left, right):
            _contours(ax, model, reach, batch.c)
    left.scatter(drawn[:, 0], drawn[:, 1], s=4, alpha=0.4, color="#555555", linewidths=0)
    colours = _colours(data, len(codes))
    cloud = right.scatter(codes[:, 0], codes[:, 1], s=5, alpha=0.8, linewidths=0, **colours)
    if "c" in colours:
        right.legend(*_legend(cloud, data), frameon=False, fontsize=7, loc="upper right", title="label")
    contours = ", contours of the prior's density" if latent == 2 and contoured else ""
    left.set(title=f"prior p(z): draws{contours}")
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
        batch = _test(data, POINTS, model)
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


def plot_history(history: pd.DataFrame) -> Figure:
    """Plot the training and validation ELBO over epochs, including any KL weight, and mark the kept epoch."""
    figure = new_figure((7, 4.2))
    ax = figure.add_subplot()
    ax.plot(history["epoch"], history["train_elbo"], label="train", color="#8a8a8a", linestyle="--")
    ax.plot(history["epoch"], history["valid_elbo"], label="validation", color=BLUE)
    for _, best in history[history["kept"]].iterrows():
        ax.plot(
            best["epoch"],
            best["valid_elbo"],
            "o",
            color=RED,
            label=f"best: {best['valid_elbo']:.2f} nats at epoch {best['epoch']:.0f}",
        )
    low = np.nanquantile(history[["train_elbo", "valid_elbo"]].to_numpy(), 0.05)
    high = np.nanmax(history[["train_elbo", "valid_elbo"]].to_numpy())
    margin = 0.08 * (high - low) + 1e-3
    weight = history["weight"].iloc[-1]
    label = "ELBO, nats per data point" if weight == 1 else f"ELBO with {weight:g} KL, nats per data point"
    ax.set(xlabel="epoch", ylabel=label, ylim=(low - margin, high + margin), title="training")
    ax.legend(frameon=False)
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


def _test(data: Dataset, count: int, model: VAE) -> Batch:
    """The first test data points with their conditions, on the device of the model."""
    batch = batch_of(data, getattr(model, "condition", None), "test")
    c = None if batch.c is None else batch.c[:count]
    return Batch(first(batch.x, count), c).to(next(model.parameters()).device)


def _prior_draws(model: VAE, count: int, c: Tensor | None) -> Tensor:
    """Draw codes from the prior (count, D), for the conditions in order."""
    if c is None:
        return model.prior().sample((count,))
    prior = model.prior_given(c[torch.arange(count) % len(c)])
    return prior.sample() if prior.batch_shape else prior.sample(torch.Size((count,)))


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


def _contours(ax: Axes, model: VAE, reach: float, c: Tensor | None) -> None:
    side, density = _density(model, reach, c)
    ax.contour(side, side, density, levels=density.max() * np.geomspace(0.01, 0.9, 7), cmap="Greys_r", linewidths=0.7)
