"""A measure against a setting that was varied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.figure import Figure

__all__ = ["plot_curves"]

STYLES = (("#1f4e79", "o", "-"), ("#b8860b", "s", "--"), ("#7a7a7a", "^", ":"), ("#7b2d43", "D", "-."))
STYLES += (("#2f6b4f", "v", (0, (5, 1))), ("#000000", "x", (0, (1, 1))))  # type: ignore[assignment]


def plot_curves(
    table: pd.DataFrame,
    lines: Mapping[str, Sequence[tuple[float, str]]],
    measure: str,
    setting: str,
    label: str,
    log: bool = False,
) -> Figure:
    """Means over seeds as lines, and every seed as a dot.

    Args:
        table: one row a run.
        lines: by name, the points of a line: (value of the setting, arm).
        measure: column of the table.
        setting: label of the horizontal axis.
        label: of the vertical axis, with its unit.
        log: whether the horizontal axis is logarithmic.
    """
    figure = Figure(figsize=(6, 4), layout="constrained")
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
