"""Figures of the diagnostics of a guide: k̂ and calibration."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from flowvae.core.errors import FlowvaeError
from flowvae.evaluation.calibration.calibration import Array, Calibration, ecdf_band
from flowvae.evaluation.figures.drawing import BLUE, GREY, RED, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_calibration", "plot_khat"]

DIMENSIONS = 6  # largest number of columns of a calibration figure
LEVEL = 0.95  # coverage of the bands


def plot_calibration(calibration: Calibration, bins: int = 20) -> Figure:
    """Plot rank histograms, and below them the distribution function minus the uniform one, for up to 6 dimensions.

    Under calibration each single bar is outside of the band with probability 5 %, and the whole curve leaves its band
    with probability 5 %.

    Args:
        calibration: the ranks.
        bins: number of bins of the histogram, preferably a divisor of draws + 1.

    Raises:
        FlowvaeError: for fewer than two bins, or more than draws + 1.
    """
    from scipy import stats

    shown = min(DIMENSIONS, len(calibration.names))
    counts, expected = calibration.histogram(bins)
    u, difference = calibration.ecdf_difference()
    lower, upper = ecdf_band(len(calibration.ranks), calibration.draws, LEVEL)
    figure = new_figure((max(4.5, 2.6 * shown), 5))
    axes = figure.subplots(2, shown, squeeze=False, sharey="row")
    edges = np.linspace(0, 1, bins + 1)
    low, high = stats.binom.interval(LEVEL, len(calibration.ranks), expected / expected.sum())
    for column in range(shown):
        above, below = axes[:, column]
        above.fill_between(
            edges, np.append(low, low[-1]), np.append(high, high[-1]), step="post", color=GREY, alpha=0.6
        )
        above.stairs(counts[column], edges, color=BLUE, linewidth=1.4)
        above.set(title=calibration.names[column], xlabel="rank / L", xlim=(0, 1), xticks=(0, 0.5, 1))
        # extended to (0, 0) and (1, 0), where both differences are zero
        below.fill_between(_closed(u), _ended(lower), _ended(upper), color=GREY, alpha=0.6, linewidth=0)
        below.plot(_closed(u), _ended(difference[column]), color=BLUE, linewidth=1.4)
        below.axhline(0, color="black", linewidth=0.6)
        below.set(xlabel="rank / L", xlim=(0, 1), xticks=(0, 0.5, 1))
    axes[0, 0].set_ylim(0, 1.05 * max(counts[:shown].max(), high.max()))
    axes[0, 0].set_ylabel(f"simulations of {len(calibration.ranks)}")
    axes[1, 0].set_ylabel("distribution function − uniform")
    more = f", {shown} of {len(calibration.names)} dimensions" if shown < len(calibration.names) else ""
    figure.suptitle(
        f"ranks among L = {calibration.draws} draws{more}; bands {LEVEL:.0%}: each bar, the whole curve",
        fontsize=9,
    )
    return figure


def plot_khat(pareto_k: Tensor) -> Figure:
    """Plot the sorted k̂ of the data (N,), with the limits 0.5 (finite variance) and 0.7 (reliable).

    Raises:
        FlowvaeError: if no k̂ is finite.
    """
    k = np.sort(pareto_k.reshape(-1).double().numpy(force=True))
    finite = k[np.isfinite(k)]
    if not len(finite):
        raise FlowvaeError("no finite k̂; each needs 25 draws or more with unequal weights.")
    figure = new_figure((7, 4.2))
    ax = figure.add_subplot()
    ax.plot(np.arange(1, len(finite) + 1), finite, "o" if len(finite) < 300 else "-", color=BLUE, markersize=3)
    for limit, style, meaning in ((0.5, "--", "variance of the weights finite below"), (0.7, "-", "usable below")):
        share = (finite > limit).mean()
        ax.axhline(limit, color=RED, linestyle=style, linewidth=1, label=f"{limit}: {meaning}; {share:.1%} above")
    left_out = f" ({len(k) - len(finite)} without a finite k̂ left out)" if len(finite) < len(k) else ""
    ax.set(title="Pareto k̂ of each data point", xlabel=f"data, sorted by k̂{left_out}", ylabel="k̂")
    ax.legend(frameon=False, loc="lower right")
    return figure


def _closed(u: Array) -> Array:
    return np.concatenate(([0.0], u, [1.0]))


def _ended(values: Array) -> Array:
    return np.concatenate(([0.0], values, [0.0]))
