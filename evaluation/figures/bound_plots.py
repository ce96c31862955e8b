"""Figures of the importance-weighted bound over its number of samples, and of inference gaps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flowvae.core.errors import FlowvaeError
from flowvae.evaluation.figures.drawing import new_figure
from flowvae.evaluation.likelihood.ais import AIS
from flowvae.evaluation.likelihood.elbo_and_nll import BAD_K, bad_k
from flowvae.evaluation.likelihood.gaps import Gaps
from flowvae.evaluation.likelihood.iwae import IWAE
from flowvae.evaluation.metric import mean_se

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_bounds", "plot_gaps"]


def plot_bounds(iwae: IWAE, ais: AIS | None = None, exact: Tensor | None = None, title: str = "") -> Figure:
    """Plot L_K over K, mean over the data in nats, with AIS as a band and the exact value as a line.

    Bars and band are ± 1.96 Monte Carlo standard errors. They leave out the spread over the data, since everything is
    measured on the same data. The dashed curve is the prediction of the weights, L_S + V/(2S) − V/(2K), drawn for K
    above 4 times the mean V.

    Args:
        iwae: result of `measure_iwae`.
        ais: result of `measure_ais` on the same data.
        exact: log p(x) of each data point, shape (N,), if known.
        title: title of the figure, such as names of data, model and guide.

    Raises:
        FlowvaeError: if the numbers of data points differ.
    """
    data = len(iwae.variance)
    for name, other in (("ais", None if ais is None else ais.acceptance), ("exact", exact)):
        if other is not None and len(other) != data:
            raise FlowvaeError(f"{name}: {len(other)} data, iwae: {data}; measure both on the same data.")
    figure = new_figure((6.4, 4.2))
    ax = figure.add_subplot()
    ax.errorbar(
        iwae.samples,
        iwae.bound.mean(1),
        1.96 * iwae.standard_error.square().sum(1).sqrt() / data,
        fmt="o-",
        color="black",
        capsize=3,
        label="importance-weighted bound",
    )
    variance = iwae.variance.mean().item()
    if iwae.samples[-1] > 8 * variance:  # otherwise the curve is too short to see
        numbers = torch.logspace(0, math.log10(iwae.samples[-1]), 100)
        numbers = numbers[numbers > 4 * variance]
        limit = iwae.bound[-1].mean().item() + variance / (2 * iwae.samples[-1])
        ax.plot(numbers, limit - variance / (2 * numbers), "--", color="0.45", label="bias predicted by the weights")
    if ais is not None:
        middle = ais.log_evidence.mean().item()
        error = 1.96 * ais.standard_error.square().sum().sqrt().item() / data
        ax.axhspan(middle - error, middle + error, color="0.8", zorder=0)
        ax.axhline(middle, color="0.55", linestyle="-.", zorder=0, label=f"AIS, {ais.settings.chains} chains")
    if exact is not None:
        ax.axhline(exact.double().mean().item(), color="black", linestyle=":", label="exact")
    bad = bad_k(iwae.pareto_k)
    tails = [] if bad is None else [f"k̂ > {BAD_K} for {bad.mean():.0%}"]
    effective = iwae.effective_draws.mean().item()
    ax.set(
        xscale="log",
        xlabel="K, importance samples per data point",
        ylabel=f"mean over {data} data, nats",
        title=f"{title}\n" * bool(title) + ", ".join([f"effective draws {effective:.0f} of {iwae.draws}", *tails]),
    )
    ax.legend(frameon=False, loc="best")
    return figure


def plot_gaps(gaps: Mapping[str, Gaps]) -> Figure:
    """Plot log p(x) = ELBO + amortization gap + approximation gap, one bar per guide, means over the data in nats.

    Each part is labelled with its mean ± 1.96 standard errors over the data.

    Args:
        gaps: results of `measure_gaps`, by name of the model or guide.

    Raises:
        FlowvaeError: without gaps.
    """
    if not gaps:
        raise FlowvaeError("gaps: none given; use measure_gaps on a fitted pair.")
    figure = new_figure((2.8 + 1.3 * len(gaps), 4.4))
    ax = figure.add_subplot()
    parts = (("amortization gap", "0.35", ""), ("approximation gap", "0.85", "//"))
    for place, result in enumerate(gaps.values()):
        bottom = result.elbo.mean().item()
        for (name, shade, hatch), values in zip(parts, (result.amortization, result.approximation), strict=True):
            height, se = mean_se(values)
            spread = "" if se is None else f" ± {1.96 * se:.2f}"
            ax.bar(
                place,
                height,
                0.55,
                bottom,
                color=shade,
                hatch=hatch,
                edgecolor="black",
                label=name if place == 0 else None,
            )
            middle = bottom + height / 2
            ax.annotate(
                f"{height:.2f}{spread}",
                (place, middle),
                ha="center",
                va="center",
                bbox={"boxstyle": "square,pad=0.15", "facecolor": "white", "edgecolor": "none"},
            )
            bottom += height
        ax.annotate(f"log p(x) ≈ {bottom:.2f}", (place, bottom), (0, 6), textcoords="offset points", ha="center")
        ax.annotate(
            f"ELBO {result.elbo.mean():.2f}",
            (place, result.elbo.mean().item()),
            (0, -14),
            textcoords="offset points",
            ha="center",
        )
    ax.set_xticks(range(len(gaps)), list(gaps))
    lowest = min(result.elbo.mean().item() for result in gaps.values())
    highest = max(result.evidence.log_evidence.mean().item() for result in gaps.values())
    room = 0.15 * (highest - lowest) + 0.1
    ax.set(xlim=(-0.6, len(gaps) - 0.4), ylim=(lowest - room, highest + room))
    ax.set(ylabel="nats per data point", title="gaps of the bound")
    ax.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return figure
