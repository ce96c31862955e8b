"""The figure of paths between codes: straight, and along the base space of a flow prior."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from flowvae.core.errors import check_int_value
from flowvae.core.seeds import derive, seeded
from flowvae.data import Batch, Dataset
from flowvae.evaluation.figures.drawing import BLUE, RED
from flowvae.evaluation.figures.images import check_images, value_range
from flowvae.evaluation.figures.inputs import pairs_of
from flowvae.evaluation.figures.panels import Panel, axes_beside, draw_panels
from flowvae.evaluation.latent.base_space import from_base, has_base, to_base
from flowvae.guides import AmortizedGuide
from flowvae.models import VAE
from flowvae.networks import in_eval_mode

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["paths_between", "plot_interpolation"]

FINE = 97  # points of a path at which log p(z) is drawn
SIDE = 156, 50, 30  # room right of the images, the part of it for axis labels, and room below, figure pixels
LEAST_HEIGHT = 26  # of the rows of a pair that have axes beside them, figure pixels
COLOURS = {"straight": RED, "base": BLUE}


@torch.no_grad()
@in_eval_mode
def plot_interpolation(
    model: VAE,
    guide: AmortizedGuide,
    data: Dataset,
    seed: int = 0,
    pairs: int = 4,
    steps: int = 7,
    split: str = "test",
) -> Figure:
    """Plot decoded paths E[x | z(t)] from the code of one image to that of another, with log p(z) along each path.

    One path is a straight line in z. Under a flow prior another one, below it, is a straight line u(t) of the base
    space, z(t) = T(u(t)); under a Gaussian both are the same. The outermost images are the data themselves.

    Pairs are random, with different labels if there are labels, or with equal labels for a model conditioned on labels.
    Covariates are interpolated, too.

    Args:
        model: the model.
        guide: its guide, from which one code per image is drawn.
        data: images.
        seed: random seed of pairs and codes.
        pairs: number of pairs, fewer if there are not as many.
        steps: images of a path, including those of both codes; two or more.
        split: split of the images.

    Raises:
        FlowvaeError: for data that are not images, fewer than two images or two steps, or no pairs.
    """
    check_images(data)
    check_int_value("pairs", pairs)
    check_int_value("steps", steps, least=2)
    batches = pairs_of(data, pairs, model, seed, split)
    ends = [_code(guide, batch, derive(seed, side)) for batch, side in zip(batches, ("start", "end"), strict=True)]
    conditions = [batch.c for batch in batches]
    paths = paths_between(model, ends, conditions, steps)
    first, last = (data.original(batch.args[0].cpu())[:, None] for batch in batches)
    rows: list[Tensor] = []
    for z, c in paths.values():
        images = data.original(model.mean(z, c).cpu()).unflatten(0, (-1, steps))
        x = (first, last) if not rows else (torch.full_like(first, torch.nan),) * 2  # the data once for both paths
        rows.append(torch.cat((x[0], images, x[1]), 1))
    grid = torch.stack(rows, 1)
    kinds = len(rows)
    panel = Panel(
        grid.flatten(0, 2),
        steps + 2,
        f"{data.name}: paths between the codes of two {split} images, straight in z"
        + " or in base space" * (kinds > 1),
        labels=[*paths] * len(grid) if kinds > 1 else [],
        heads=["x", *[""] * steps, "x"],
        breaks=[1, 1 + steps],
        row_breaks=range(kinds, kinds * len(grid), kinds),
        room=(0, SIDE[0], SIDE[2]) if len(model.latent_sites) == 1 else (0, 0, 0),
    )
    figure, (ax,) = draw_panels([panel], value_range(data))
    if len(model.latent_sites) == 1:  # log p(z) of a prior with latent variables is an integral
        _plot_densities(ax, panel, model, paths_between(model, ends, conditions, FINE), kinds)
    return figure


def paths_between(
    model: VAE, ends: list[Tensor], conditions: list[Tensor | None], steps: int
) -> dict[str, tuple[Tensor, Tensor | None]]:
    """Codes on the paths between pairs of codes, with their conditions, shape (N · steps, ...), path after path.

    Args:
        model: the model.
        ends: codes of both ends, shape (N, D) each; every path begins and ends with exactly these.
        conditions: conditions of both ends, shape (N, C) each, or None.
        steps: points of a path.

    Returns:
        "straight" and, if it is another path, "base".
    """
    start, end = ends
    share = torch.linspace(0, 1, steps, dtype=start.dtype, device=start.device)[:, None]

    def between(a: Tensor, b: Tensor) -> Tensor:
        return torch.lerp(a[:, None], b[:, None], share).flatten(0, 1)

    a, b = conditions
    c = None if a is None or b is None else between(a, b)
    paths = {"straight": between(start, end)}
    prior = model.prior_given(c)
    if has_base(prior):
        u, v = (to_base(model.prior_given(given), z) for z, given in zip(ends, conditions, strict=True))
        curved = from_base(prior, between(u, v)).unflatten(0, (-1, steps))
        curved[:, 0], curved[:, -1] = start, end  # exactly, without the rounding of T and its inverse
        curved = curved.flatten(0, 1)
        if not torch.allclose(curved, paths["straight"], atol=1e-3):
            paths["base"] = curved
    return {name: (z, c) for name, z in paths.items()}


def _code(guide: AmortizedGuide, batch: Batch, seed: int) -> Tensor:
    with seeded(derive(seed, "codes", 0)):
        z: Tensor = guide.posterior(*batch.args).sample()
    return z


def _plot_densities(
    ax: Axes, panel: Panel, model: VAE, paths: dict[str, tuple[Tensor, Tensor | None]], kinds: int
) -> None:
    """Add axes with log p(z) over t right of the rows of each pair, if the rows are high enough."""
    tops = panel.tops
    if tops[kinds] - tops[0] < LEAST_HEIGHT:
        return
    densities = {
        name: model.prior_given(c).log_prob(z).unflatten(0, (-1, FINE)).numpy(force=True)
        for name, (z, c) in paths.items()
    }
    if kinds > 1:
        for text in ax.texts:  # the labels of the rows are the legend of the lines
            text.set_color(COLOURS.get(text.get_text(), text.get_color()))
    width = ax.get_xlim()[1]
    every = np.concatenate(list(densities.values()))
    reach = every.min(), every.max()
    margin = 0.08 * (reach[1] - reach[0]) + 1e-3
    for pair in range(panel.rows // kinds):
        top, end = tops[kinds * pair], tops[kinds * (pair + 1)]
        beside = axes_beside(ax, width + SIDE[1], top + 4, SIDE[0] - SIDE[1], end - top - 13)
        for name, density in densities.items():
            beside.plot(np.linspace(0, 1, FINE), density[pair], color=COLOURS[name], linewidth=1.2, label=name)
        beside.set(xlim=(0, 1), ylim=(reach[0] - margin, reach[1] + margin), xticks=(0, 1))
        beside.tick_params(labelsize=7, length=2, pad=2)
        beside.spines[["top", "right"]].set_visible(False)
        if pair == 0:
            beside.set_title("log p(z(t)), nats", fontsize=8, loc="left", pad=4)
        if tops[kinds * (pair + 1)] == tops[-1]:
            beside.set_xlabel("t", fontsize=8, labelpad=0)
        else:
            beside.set_xticklabels([])
