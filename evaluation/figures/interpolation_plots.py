"""Figures of paths through the latent space: along the base of a flow prior, and straight between codes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from flowvae.core.seeds import derive, seeded
from flowvae.data import Dataset, first
from flowvae.evaluation.figures.drawing import new_figure
from flowvae.evaluation.figures.images import check_images, show_images
from flowvae.evaluation.latent.aggregated_posterior import draw_codes
from flowvae.evaluation.latent.base_space import from_base, has_base, to_base
from flowvae.evaluation.latent.interpolation import different_pairs, end_codes, interpolate_codes
from flowvae.guides import AmortizedGuide
from flowvae.models import VAE
from flowvae.networks import in_eval_mode

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_paths", "plot_traversals"]

REACH = 2.5  # standard deviations of the base, to both sides
TITLES = {"base": "base space: T(u(t)), u(t) straight", "straight": "latent space: z(t) straight"}


@torch.no_grad()
@in_eval_mode
def plot_paths(
    model: VAE, guide: AmortizedGuide, data: Dataset, pairs: int = 4, steps: int = 9, seed: int = 0, split: str = "test"
) -> Figure:
    """Plot decoded paths from one image of the split to another, and below them log p(z) along each path.

    Pairs are random, with different labels if there are labels; their codes are drawn from the guide. A prior without a
    base space has only the straight path.

    Raises:
        FlowvaeError: for data that are not images.
    """
    check_images(data)
    device = next(guide.parameters()).device
    starts, goals = (x.to(device) for x in different_pairs(data, pairs, seed, split))
    ends = end_codes(guide, starts, goals, seed)
    fine = 12 * (steps - 1) + 1
    ways, smooth = interpolate_codes(model, *ends, steps), interpolate_codes(model, *ends, fine)
    figure = new_figure((4.8 * len(ways), 0.48 * pairs + 3.2))
    axes = figure.subplots(2, len(ways), height_ratios=(0.48 * pairs, 2.4), sharey="row", squeeze=False)
    for (above, below), (name, way) in zip(axes.T, ways.items(), strict=True):
        show_images(above, model.mean(way).transpose(0, 1).flatten(0, 1), data, TITLES[name], steps)
        density = model.prior().log_prob(smooth[name]).numpy(force=True)
        for pair, line in enumerate(density.T):
            style = ("-", "--", ":", "-.")[pair % 4]
            below.plot(np.linspace(0, 1, fine), line, style, color=f"C{pair}", label=f"row {pair + 1}")
        below.set(xlabel="t", ylabel="log p(z), nats")
    axes[1, 0].legend(frameon=False, fontsize=8, ncols=2)
    return figure


@torch.no_grad()
@in_eval_mode
def plot_traversals(
    model: VAE, guide: AmortizedGuide, data: Dataset, units: int = 8, steps: int = 9, seed: int = 0, split: str = "test"
) -> Figure:
    """Plot one image with single coordinates of its code replaced: one row per unit, in base space and latent space.

    In base space the values run from −2.5 to 2.5 with the other coordinates fixed, and in latent space over the same
    quantiles of prior draws. Changing one coordinate of the base can change several coordinates of z = T(u). A prior
    without a base space has only the latent space.

    Args:
        model: the model.
        guide: its guide.
        data: images.
        units: largest number of rows; the units in which codes of the split vary most come first.
        steps: images per row.
        seed: decides the image, the code and the draws of the prior.
        split: of the image.

    Raises:
        FlowvaeError: for data that are not images.
    """
    check_images(data)
    prior = model.prior()
    device = next(guide.parameters()).device
    one, _ = different_pairs(data, 1, seed, split)
    z = draw_codes(guide, one.to(device), 1, seed)[0][0, 0]
    spread = draw_codes(guide, first(getattr(data, split), 500).to(device), 1, seed)[0][0]
    if has_base(prior):
        spread = to_base(prior, spread)
    chosen = spread.var(0).argsort(descending=True)[:units].tolist()
    values = torch.linspace(-REACH, REACH, steps, dtype=z.dtype, device=z.device)
    with seeded(derive(seed, "prior")):
        drawn = prior.sample((10_000,))
    ranks = torch.special.ndtr(values)
    in_latent = torch.cat([_replaced(z, unit, drawn[:, unit].quantile(ranks)) for unit in chosen])
    ways = [(in_latent, "latent space: $z_j$ from 0.6 % to 99.4 % of the prior", "z")]
    if has_base(prior):
        u = to_base(prior, z)
        in_base = torch.cat([_replaced(u, unit, values) for unit in chosen])
        ways.insert(0, (from_base(prior, in_base), "base space: $u_j$ from −2.5 to 2.5", "u"))
    figure = new_figure((4.8 * len(ways), 0.5 * len(chosen) + 0.8))
    for ax, (way, title, letter) in zip(figure.subplots(1, len(ways), squeeze=False)[0], ways, strict=True):
        show_images(ax, model.mean(way), data, title, steps)
        side = ax.get_ylim()[0] / len(chosen)
        for row, unit in enumerate(chosen):
            ax.text(-0.3 * side, (row + 0.5) * side, f"${letter}_{{{unit}}}$", ha="center", va="center", fontsize=9)
    return figure


def _replaced(code: Tensor, unit: int, values: Tensor) -> Tensor:
    """Replace one coordinate of a code (latent,) by each of the values (steps,), shape (steps, latent)."""
    codes = code.repeat(len(values), 1)
    codes[:, unit] = values
    return codes
