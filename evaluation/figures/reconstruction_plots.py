"""The figure of reconstructions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flowvae.core.errors import check_int_value
from flowvae.core.seeds import derive, seeded
from flowvae.data import Dataset
from flowvae.evaluation.figures.drawing import new_figure
from flowvae.evaluation.figures.images import is_image, value_range
from flowvae.evaluation.figures.inputs import first_of
from flowvae.evaluation.figures.panels import Panel, columns_within, draw_panels
from flowvae.guides import AmortizedGuide
from flowvae.models import VAE
from flowvae.networks import in_eval_mode

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_reconstructions"]

LABELS = 60  # width for the labels of rows, figure pixels
LINES = 4  # number of data points, if they are not images


@torch.no_grad()
@in_eval_mode
def plot_reconstructions(
    model: VAE, guide: AmortizedGuide, data: Dataset, seed: int = 0, draws: int = 1, split: str = "test"
) -> Figure:
    """Plot data above their reconstructions E[x | z] with z drawn from the guide.

    Args:
        model: the model.
        guide: its guide.
        data: the data set.
        seed: random seed of the codes.
        draws: codes per image, one row for each; their differences show the uncertainty of the posterior.
        split: split of the data.

    Raises:
        FlowvaeError: for fewer than one draw.
    """
    check_int_value("draws", draws)
    images = is_image(data.shape)
    blocks = 2 if draws == 1 and images else 1
    columns = columns_within(data.shape, reserved=LABELS) if images else LINES
    batch = first_of(data, blocks * columns, model, split)
    x, *given = batch.args
    with seeded(derive(seed, "reconstructions")):
        rebuilt = [model.mean(guide.posterior(x, *given).sample(), *given) for _ in range(draws)]
    if not images:
        return _plot_lines(data, x, rebuilt, split)
    rows = []
    for start in range(0, len(x), columns):
        for row in (x, *rebuilt):
            part = torch.full((columns, *data.shape), torch.nan, dtype=torch.float64)
            part[: len(x) - start] = data.original(row[start : start + columns].cpu())
            rows.append(part)
    labels = ["x", *["E[x | z]"] * draws] * -(-len(x) // columns)
    title = f"{data.name}: {split} images x, and their reconstructions from z ~ q(z | x)"
    panel = Panel(torch.cat(rows), columns, title, labels, row_breaks=range(1 + draws, len(rows), 1 + draws))
    return draw_panels([panel], value_range(data))[0]


def _plot_lines(data: Dataset, x: Tensor, rebuilt: list[Tensor], split: str) -> Figure:
    """Plot data that are not images as lines over their columns, one line per reconstruction."""
    x, lines = data.original(x).flatten(1), torch.stack([data.original(one).flatten(1) for one in rebuilt])
    figure = new_figure((9, 4.2))
    ax = figure.add_subplot()
    for row in range(len(x)):
        colour = f"C{row}"
        ax.plot(x[row].numpy(force=True), "o", color=colour, markersize=4, label="data point" if row == 0 else None)
        for draw, line in enumerate(lines[:, row].numpy(force=True)):
            ax.plot(line, "-", color=colour, label="reconstruction" if row == draw == 0 else None)
    title = f"{data.name}: {len(x)} {split} data points, and their reconstructions from z ~ q(z | x)"
    ax.set(title=title, xlabel="column of x", ylabel="value")
    ax.legend(frameon=False)
    return figure
