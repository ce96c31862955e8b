"""Figures of a run by name, and their files."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flowvae.core.errors import FlowvaeError, nearest, shown
from flowvae.core.files import as_path, atomic_write
from flowvae.core.progress import bar
from flowvae.data import Dataset
from flowvae.evaluation.figures.drawing import BLUE, RED, SHARPNESS, new_figure
from flowvae.evaluation.figures.images import is_image
from flowvae.evaluation.figures.interpolation_plots import plot_interpolation
from flowvae.evaluation.figures.prior_plots import plot_latent
from flowvae.evaluation.figures.reconstruction_plots import plot_reconstructions
from flowvae.evaluation.figures.sample_plots import plot_neighbours, plot_samples
from flowvae.evaluation.figures.traversal_plots import plot_traversal
from flowvae.guides import AmortizedGuide
from flowvae.models import VAE

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["FIGURES", "draw_figure", "draw_figures", "plot_history", "write_figure"]

SEARCHED = 2**28  # values of training images in which `draw_figures` looks for neighbours


def plot_history(history: pd.DataFrame, objective: str = "ELBO") -> Figure:
    """Plot the training and validation ELBO over epochs, including any KL weight, and mark the kept epoch.

    Args:
        history: one row per epoch, see `Run.history`.
        objective: name of what was maximized, in nats per data point.
    """
    from matplotlib.ticker import MaxNLocator

    figure = new_figure((7, 4.2))
    ax = figure.add_subplot()
    marker = "o" if len(history) == 1 else ""  # a single epoch has no line
    ax.plot(history["epoch"], history["train_elbo"], label="train", color="#8a8a8a", linestyle="--", marker=marker)
    ax.plot(history["epoch"], history["valid_elbo"], label="validation", color=BLUE, marker=marker)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if marker:
        ax.set_xlim(history["epoch"].iloc[0] - 1, history["epoch"].iloc[0] + 1)
    for _, best in history[history["kept"]].iterrows():
        ax.plot(
            best["epoch"],
            best["valid_elbo"],
            "o",
            color=RED,
            label=f"best: {best['valid_elbo']:.2f} nats at epoch {best['epoch']:.0f}",
        )
    values = history[["train_elbo", "valid_elbo"]].to_numpy()
    values = values[np.isfinite(values)]  # an epoch whose validation failed has an infinite loss
    low, high = np.quantile(values, 0.05), values.max()
    margin = 0.08 * (high - low) + 1e-3
    weight = history["weight"].iloc[-1]
    weighted = "" if weight == 1 else f" with {weight:g} KL"
    ax.set(
        xlabel="epoch",
        ylabel=f"{objective}{weighted}, nats per data point",
        ylim=(low - margin, high + margin),
        title="training",
    )
    ax.legend(frameon=False)
    return figure


FIGURES: dict[str, Callable[..., Figure]] = {
    "samples": plot_samples,
    "reconstructions": plot_reconstructions,
    "neighbours": plot_neighbours,
    "interpolation": plot_interpolation,
    "traversal": plot_traversal,
    "latent": plot_latent,
    "history": plot_history,
}
OF_IMAGES = ("neighbours", "interpolation", "traversal")


def draw_figure(name: str, parts: Mapping[str, Callable[[], Any]], **settings: Any) -> Figure:
    """Draw a figure of a run by its name.

    Args:
        name: name in `FIGURES`.
        parts: functions that return model, guide, data, history and seed; only those that the figure needs are called.
        settings: arguments of the figure's function, such as `of="draws"` for samples.

    Raises:
        FlowvaeError: for an unknown name or setting, or data that the figure cannot show.
    """
    if name not in FIGURES:
        raise FlowvaeError(f"figure {shown(name)}: {nearest(str(name), FIGURES)}")
    takes = list(inspect.signature(FIGURES[name]).parameters)
    for setting in settings:
        own = [parameter for parameter in takes if parameter not in parts or parameter == "seed"]
        if setting not in own:
            raise FlowvaeError(f"figure {name!r}, {shown(setting)}: {nearest(setting, own)}")
    given = {part: value() for part, value in parts.items() if part in takes and part not in settings}
    return FIGURES[name](**given, **settings)


def draw_figures(
    model: VAE,
    guide: AmortizedGuide,
    data: Dataset,
    history: pd.DataFrame,
    directory: Path,
    seed: int = 0,
    progress: bool = False,
    objective: str = "ELBO",
) -> list[Path]:
    """Write the figures that apply to the data as PNG.

    - `samples.png`: test data beside generated data;
    - `reconstructions.png`: test data and their reconstructions E[x | z];
    - `neighbours.png`, of images: generated images beside the nearest training images, among 2²⁸ values of them;
    - `interpolation.png`, of two or more test images: paths between codes, straight and through the base space;
    - `traversal.png`, of images: single coordinates of a code changed;
    - `latent.png`: the prior beside the aggregated posterior;
    - `history.png`: the objective over epochs.

    With `progress` a progress bar is shown.

    Returns:
        The paths of the files.
    """
    directory = as_path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    values = {"model": model, "guide": guide, "data": data, "history": history, "seed": seed, "objective": objective}
    parts = {name: partial(values.get, name) for name in values}
    searched = max(1, SEARCHED // data.features)
    names = [name for name in FIGURES if is_image(data.shape) or name not in OF_IMAGES]
    names = [name for name in names if name != "interpolation" or len(data.test) > 1]
    paths = []
    for name in bar("figures", "figure", len(names), names, progress):
        path = directory / f"{name}.png"
        settings = {"searched": searched} if name == "neighbours" else {}
        write_figure(draw_figure(name, parts, **settings), path)
        paths.append(path)
    return paths


def write_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, atomically, and create its folder if needed.

    The file has two pixels per figure pixel in each direction, so show it at half its size.
    """
    path = as_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=SHARPNESS * figure.dpi)
