"""Figures of the latent space: holes of the prior, and activity of units."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from flowvae.core.errors import FlowvaeError
from flowvae.core.seeds import derive, seeded
from flowvae.evaluation.figures.drawing import BLUE, RED, new_figure, on_grid
from flowvae.evaluation.latent.activity import ACTIVE, Activity
from flowvae.evaluation.latent.aggregated_posterior import AggregatedPosterior, WithPosterior, WithPrior
from flowvae.evaluation.latent.holes import QUANTILE, reference_codes
from flowvae.evaluation.latent.principal_plane import axis_label, principal_plane
from flowvae.networks import in_eval_mode

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_activity", "plot_holes"]

NODES = 121  # nodes per side of the grid of a density
POINTS = 2000  # points in a cloud


@torch.no_grad()
@in_eval_mode
def plot_holes(
    model: WithPrior,
    guide: WithPosterior,
    x: Tensor,
    held_out: Tensor | None = None,
    seed: int = 0,
) -> Figure:
    """Plot the aggregated posterior beside the prior, whose draws in holes are marked.

    A hole is a region where log q̄(z) is below a 5 % quantile, of draws of q̄ or of held-out codes, as in
    `measure_holes`. A 2-D latent space shows the border of the holes. A larger one is projected onto the principal
    components of the codes, where a marked draw can overlap with codes that are far from it in other directions.

    Args:
        model: model with a method `prior()`.
        guide: guide with a method `posterior(x)`.
        x: the data of q̄, shape (N, D).
        held_out: data whose codes set the threshold and are shown, shape (M, D); None: draws of q̄.
        seed: random seed of the draws.

    Raises:
        FlowvaeError: for a latent of one dimension.
    """
    aggregated = AggregatedPosterior(guide, x)
    codes = reference_codes(aggregated, held_out, POINTS, seed)
    if codes.shape[1] < 2:
        raise FlowvaeError("latent = 1: the figure needs 2 dimensions or more; use plot_latent.")
    with seeded(derive(seed, "prior")):
        drawn = model.prior().sample((POINTS,))
    threshold = aggregated.log_prob(codes).quantile(QUANTILE).item()
    density = aggregated.log_prob(drawn)
    hole = (density < threshold).numpy(force=True)
    plane = principal_plane(codes.numpy(force=True))
    planes = [plane.transform(z.numpy(force=True)) if plane else z.numpy(force=True) for z in (codes, drawn)]
    figure = new_figure((9.6, 4.9))
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    low, high = np.quantile(np.concatenate(planes), (0.001, 0.999), axis=0)
    centre, reach = (low + high) / 2, 0.54 * (high - low).max()
    if plane is None:
        for ax in (left, right):
            _border(ax, aggregated, threshold, centre, reach)
    left.scatter(*planes[0].T, s=max(4, 6000 // (len(codes) + 200)), alpha=0.5, color=BLUE, linewidths=0)
    shown = right.scatter(
        *planes[1][~hole].T,
        c=density.numpy(force=True)[~hole],
        s=5,
        cmap="Blues",
        vmin=threshold - 0.5 * (density.max().item() - threshold),  # the palest blue would be invisible
        linewidths=0,
    )
    right.scatter(*planes[1][hole].T, s=14, marker="x", color=RED, linewidths=0.8, label="in a hole")
    figure.colorbar(shown, ax=right, label="log q̄(z) outside holes, nats", shrink=0.85)
    name = "aggregated posterior q̄(z)" if held_out is None else "codes of held-out data"
    left.set_title(f"{name}: {QUANTILE:.0%} in holes", fontsize=10)
    right.set_title(f"prior p(z): {hole.mean():.1%} in holes", fontsize=10)
    right.legend(frameon=True, fontsize=8, loc="upper right")
    for ax in (left, right):
        ax.set(xlim=centre[0] + np.array([-reach, reach]), ylim=centre[1] + np.array([-reach, reach]), aspect="equal")
        ax.set(xlabel=axis_label("z", 1, plane), ylabel=axis_label("z", 2, plane))
    return figure


def _border(ax: Axes, aggregated: AggregatedPosterior, threshold: float, centre: Any, reach: float) -> None:
    side = torch.linspace(-reach, reach, NODES).to(aggregated.x)
    across, up = side + centre[0], side + centre[1]
    picture = across.numpy(force=True), up.numpy(force=True), on_grid(aggregated.log_prob, across, up)
    ax.contourf(*picture, levels=[-math.inf, threshold], colors=["#e4e4e4"])
    ax.contour(*picture, levels=[threshold], colors="black", linewidths=0.8)


def plot_activity(result: Activity) -> Figure:
    """Plot every unit's share of the prior's variance, sorted, and below it the KL if that is defined."""
    order = result.share.argsort(descending=True)
    share, se = result.share[order].numpy(force=True), result.se[order].numpy(force=True)
    rows = 1 if result.kl is None else 2
    figure = new_figure((max(5.0, 1.2 + 0.35 * len(order)), 2.6 * rows))
    axes = figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0]
    place = np.arange(len(order))
    errors: dict[str, Any] = {"capsize": 2, "error_kw": {"linewidth": 0.8}}
    axes[0].bar(place, share, yerr=1.96 * se, color=np.where(share > ACTIVE, BLUE, "#bbbbbb"), **errors)
    axes[0].axhline(ACTIVE, color="black", linestyle="--", linewidth=0.8, label=f"active above {ACTIVE:g}")
    axes[0].set(ylabel="Var E[z|x] / Var p(z)", title=f"{result.active} of {len(order)} units are active (95 % bars)")
    axes[0].legend(frameon=False, fontsize=8)
    if result.kl is not None:
        kl = result.kl[:, order]
        spread = (1.96 * kl.std(0) / math.sqrt(len(kl))).numpy(force=True)
        axes[1].bar(place, kl.mean(0).numpy(force=True), yerr=spread, color="#8a8a8a", **errors)
        axes[1].set(ylabel="mean KL, nats")
    axes[-1].set(xlabel="unit of the latent", xticks=place, xticklabels=order.tolist())
    axes[-1].tick_params(labelsize=7)
    return figure
