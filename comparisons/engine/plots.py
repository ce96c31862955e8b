"""Figures of a question: paired differences, a measure against a setting, and the priors of the arms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from flowvae.comparisons.engine.question import Question
from flowvae.comparisons.engine.statistics import LEAST_SEEDS, LEVEL, MARGIN
from flowvae.evaluation import plot_priors
from flowvae.evaluation.figures.drawing import BLUE, new_figure
from flowvae.experiments.run import Run

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["draw_priors", "plot_against", "plot_curves", "plot_differences"]

STYLES = ((BLUE, "o", "-"), ("#b8860b", "s", "--"), ("#7a7a7a", "^", ":"), ("#7b2d43", "D", "-."))
STYLES += (("#2f6b4f", "v", (0, (5, 1))), ("#000000", "x", (0, (1, 1))))  # type: ignore[assignment]


def plot_curves(
    table: pd.DataFrame,
    lines: Mapping[str, Sequence[tuple[float, str]]],
    measure: str,
    setting: str,
    label: str,
    log: bool = False,
) -> Figure:
    """Plot means over seeds as lines, and every seed as a dot.

    Args:
        table: one row per run.
        lines: points (value of the setting, arm) of each line, by name.
        measure: column of the table.
        setting: label of the horizontal axis.
        label: label of the vertical axis, with unit.
        log: whether the horizontal axis is logarithmic.
    """
    figure = new_figure((6, 4))
    ax = figure.add_subplot()
    for (name, points), (color, marker, style) in zip(lines.items(), STYLES, strict=False):
        found = [(value, table.loc[table["arm"] == arm, measure]) for value, arm in points]
        found = [(value, runs) for value, runs in found if len(runs)]
        for value, runs in found:
            ax.plot([value] * len(runs), runs, marker, color=color, markersize=3, alpha=0.4, markeredgewidth=0.5)
        means = [runs.mean() for _, runs in found]
        ax.plot(
            [value for value, _ in found], means, marker=marker, linestyle=style, color=color, markersize=6, label=name
        )
    if log:
        ax.set_xscale("log")
    values = sorted({value for points in lines.values() for value, _ in points})
    ax.set_xticks(values, [f"{value:g}" for value in values], minor=False)
    ax.minorticks_off()
    ax.set(xlabel=setting, ylabel=label)
    if len(lines) > 1:
        ax.legend()
    return figure


def plot_against(table: pd.DataFrame, across: str, up: str, label: str, height: str) -> Figure:
    """Plot means over seeds of two measures of every arm, with standard errors; the horizontal axis is logarithmic.

    Args:
        table: one row per run.
        across: column of the horizontal axis, positive numbers.
        up: column of the vertical axis.
        label: label of the horizontal axis, with unit.
        height: label of the vertical axis, with unit.
    """
    figure = new_figure((7, 4.5))
    ax = figure.add_subplot()
    arms = table.dropna(subset=[across, up]).groupby("arm", sort=False)[[across, up]]
    means, errors = arms.mean(), arms.sem()
    ax.errorbar(means[across], means[up], errors[up], errors[across], fmt="o", color=BLUE, markersize=4, elinewidth=0.8)
    for arm, row in means.iterrows():
        ax.annotate(str(arm), (row[across], row[up]), xytext=(4, 3), textcoords="offset points", fontsize=7)
    ax.set_xscale("log")
    ax.margins(x=0.12)
    ax.set(xlabel=label, ylabel=height)
    return figure


def plot_differences(table: pd.DataFrame, differences: pd.DataFrame, question: Question, split: str = "test") -> Figure:
    """Plot the mean difference of every pair, its 95 % t interval if there are enough seeds, and every seed as a dot.

    Args:
        table: one row per run.
        differences: paired differences of the primary measure.
        question: the question.
        split: split of the data on which it was measured.
    """
    count = len(differences)
    figure = new_figure((8, 1.4 + 0.32 * count))
    ax = figure.add_subplot()
    values = table.pivot(index="seed", columns="arm", values=question.measure)
    for place, (_, row) in enumerate(differences.iterrows()):
        found = row["p_holm"] < LEVEL
        seeds = (values[row["arm"]] - values[row["against"]]).dropna()
        ax.plot(seeds, [place] * len(seeds), "o", color="#9a9a9a", markersize=4, markeredgewidth=0, zorder=1)
        ax.plot((row["low"], row["high"]), (place, place), color=BLUE, linewidth=2, zorder=2)  # NaN is not drawn
        face = BLUE if found else "white"
        ax.plot(row["difference"], place, "s", color=BLUE, markerfacecolor=face, markersize=7, zorder=3)
    ax.axvline(0, color="black", linewidth=0.8)
    labels = [f"{row['arm']} − {row['against']}" for _, row in differences.iterrows()]
    ax.set_yticks(range(count), labels)
    ax.invert_yaxis()
    better = "negative" if question.lower_is_better else "positive"
    # the axis covers every mean but not every outlying seed; arrows mark clipped intervals
    ends = differences[["low", "high"]].abs().fillna(0)  # NaN for a pair that was not tested
    reach = 1.3 * max(*ends.quantile(0.9), differences["difference"].abs().max(), MARGIN)
    reach = max(reach, 1.05 * ends[ends < 2 * reach].max().max())
    left, right = max(-reach, ax.get_xlim()[0]), min(reach, ax.get_xlim()[1])
    ax.set_xlim(left, right)
    for place, (low, high) in enumerate(differences[["low", "high"]].to_numpy()):
        for cut, edge, marker in ((low < left, left, "<"), (high > right, right, ">")):
            if cut:
                ax.plot(edge, place, marker, color=BLUE, markersize=8, clip_on=False, zorder=4)
    ax.set_xlabel(f"difference in {split} {question.measure.upper()}, {question.unit} ({better}: better)")
    seeds = int(differences["seeds"].min())
    shown = "mean and 95 % t interval" if seeds >= LEAST_SEEDS else "mean"
    tested = "filled: p < 0.05 after Holm" if seeds >= LEAST_SEEDS else f"not tested: fewer than {LEAST_SEEDS} seeds"
    figure.suptitle(
        f"{question.asks}\n{shown} over {seeds} seeds, grey: each seed, {tested}",
        fontsize=9,
        x=0.01,
        horizontalalignment="left",
    )
    return figure


def draw_priors(runs: Mapping[str, Run], titles: Mapping[str, str]) -> dict[str, Figure]:
    """Plot the densities of the arms' priors above their aggregated posteriors.

    Args:
        runs: runs of the arms for one seed.
        titles: titles of the arms to show, by name of the arm.

    Returns:
        The figure by name; empty for conditional priors and for latent spaces that are not 2-D.
    """
    shown = {title: runs[name] for name, title in titles.items() if name in runs}
    experiments = [run.experiment for run in shown.values()]
    conditional = any(experiment.condition and experiment.condition.prior for experiment in experiments)
    if not shown or conditional or any(experiment.latent_shape.numel() != 2 for experiment in experiments):
        return {}
    return {"priors": plot_priors({title: run.pair for title, run in shown.items()}, next(iter(shown.values())).data)}
