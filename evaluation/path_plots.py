"""Ways through the latent space: along the base of a flow prior, and straight through the codes."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from flowvae.data import Dataset
from flowvae.errors import FlowvaeError
from flowvae.evaluation.base_space import from_base, to_base
from flowvae.evaluation.images import show_images
from flowvae.guides import AmortizedGuide
from flowvae.models import VAE
from flowvae.seeds import derive, seeded

__all__ = ["latent_paths", "plot_paths", "plot_traversals"]

REACH = 2.5  # standard deviations of the base to both sides


@torch.no_grad()
def latent_paths(model: VAE, start: Tensor, end: Tensor, steps: int = 9) -> tuple[Tensor, Tensor]:
    """Two ways between codes, each of shape (steps, N, latent): T(u(t)) with u(t) a straight line, and z(t) straight.

    Both begin and end at the same codes. Under the prior N(0, I), or any Gaussian, they are the same way; under a
    flow the first bends with it. Its points are never less likely *in the base* than the lesser of the ends.

    Args:
        model: with a flow or Gaussian prior.
        start: codes, shape (N, latent).
        end: as many others.
        steps: points on the way, with both ends; two or more.

    Raises:
        FlowvaeError: for fewer than two steps, or a prior without a base space.
    """
    if steps < 2:
        raise FlowvaeError(f"steps = {steps}: both ends belong to the way; use 2 or more.")
    prior = model.prior()
    share = torch.linspace(0, 1, steps, dtype=start.dtype, device=start.device)[:, None, None]
    first, last = to_base(prior, start), to_base(prior, end)
    return from_base(prior, torch.lerp(first, last, share)), torch.lerp(start, end, share)


@torch.no_grad()
def plot_paths(
    model: VAE, guide: AmortizedGuide, data: Dataset, pairs: int = 4, steps: int = 9, seed: int = 0
) -> Figure:
    """From one test image to another, both ways, decoded; below, log p(z) along both.

    Pairs are drawn at random, of different labels where there are labels; their codes are drawn from the guide.

    Raises:
        FlowvaeError: for data that are no images, or a prior without a base space.
    """
    start, end = (_codes(guide, data, index, seed) for index in _pairs(data, pairs, seed))
    figure = Figure(figsize=(9.6, 0.48 * pairs + 3.2), layout="constrained")
    axes = figure.subplots(2, 2, height_ratios=(0.48 * pairs, 2.4), sharey="row")
    fine = 12 * (steps - 1) + 1
    titles = "base space: T(u(t)), u(t) straight", "latent space: z(t) straight"
    for column, (way, smooth) in enumerate(
        zip(latent_paths(model, start, end, steps), latent_paths(model, start, end, fine), strict=True)
    ):
        show_images(axes[0, column], model.mean(way).transpose(0, 1).flatten(0, 1), data, titles[column], steps)
        density = model.prior().log_prob(smooth).numpy(force=True)
        for pair in range(pairs):
            style = ("-", "--", ":", "-.")[pair % 4]
            axes[1, column].plot(
                np.linspace(0, 1, fine), density[:, pair], style, color=f"C{pair}", label=f"row {pair + 1}"
            )
        axes[1, column].set(xlabel="t", ylabel="log p(z), nats")
    axes[1, 0].legend(frameon=False, fontsize=8, ncols=2)
    return figure


@torch.no_grad()
def plot_traversals(
    model: VAE, guide: AmortizedGuide, data: Dataset, units: int = 8, steps: int = 9, seed: int = 0
) -> Figure:
    """One test image with a single coordinate of its code replaced: a row a unit, in the base and in the latent.

    In the base the values run from −2.5 to 2.5, and the others stay as they are; in the latent they run over the
    same share of prior draws. The base moves along the prior: T(u) carries other units with it.

    Args:
        model: with a flow or Gaussian prior.
        guide: its guide.
        data: images.
        units: how many rows at most; the units in which codes of test data vary most come first.
        steps: images in a row.
        seed: of the image, the code and the prior's draws.

    Raises:
        FlowvaeError: for data that are no images, or a prior without a base space.
    """
    prior = model.prior()
    one, _ = _pairs(data, 1, seed)
    z = _codes(guide, data, one, seed)[0]
    u = to_base(prior, z)
    spread = to_base(prior, _codes(guide, data, torch.arange(min(500, len(data.test))), seed))
    chosen = spread.var(0).argsort(descending=True)[:units].tolist()
    values = torch.linspace(-REACH, REACH, steps, dtype=z.dtype, device=z.device)
    with seeded(derive(seed, "prior")):
        drawn = prior.sample((10_000,))
    ranks = torch.special.ndtr(values)
    in_base, in_latent = [], []
    for unit in chosen:
        in_base.append(_replaced(u, unit, values))
        in_latent.append(_replaced(z, unit, drawn[:, unit].quantile(ranks)))
    ways = from_base(prior, torch.cat(in_base)), torch.cat(in_latent)
    figure = Figure(figsize=(9.6, 0.5 * len(chosen) + 0.8), layout="constrained")
    titles = "base space: $u_j$ from −2.5 to 2.5", "latent space: $z_j$ over the same share of the prior"
    for ax, way, title, letter in zip(figure.subplots(1, 2), ways, titles, "uz", strict=True):
        show_images(ax, model.mean(way), data, title, steps)
        side = ax.get_ylim()[0] / len(chosen)
        for row, unit in enumerate(chosen):
            ax.text(-0.3 * side, (row + 0.5) * side, f"${letter}_{{{unit}}}$", ha="center", va="center", fontsize=9)
    return figure


def _replaced(code: Tensor, unit: int, values: Tensor) -> Tensor:
    """The code (latent,) with one coordinate replaced by each of the values (steps,), shape (steps, latent)."""
    codes = code.repeat(len(values), 1)
    codes[:, unit] = values
    return codes


def _codes(guide: AmortizedGuide, data: Dataset, index: Tensor, seed: int) -> Tensor:
    x = data.test[index].to(next(guide.parameters()).device)
    with seeded(derive(seed, "codes")):
        return guide.posterior(x).sample()


def _pairs(data: Dataset, pairs: int, seed: int) -> tuple[Tensor, Tensor]:
    """Numbers of test data, `pairs` of each side, with different labels where there are labels."""
    order = torch.randperm(len(data.test), generator=torch.Generator().manual_seed(derive(seed, "pairs")))
    labels = (data.labels or {}).get("test", torch.arange(len(data.test)))
    first, last = order[0 : len(order) // 2 * 2 : 2], order[1::2]
    different = labels[first] != labels[last]
    return first[different][:pairs], last[different][:pairs]
