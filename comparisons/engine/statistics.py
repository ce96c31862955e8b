"""Paired differences over seeds, corrected for the number of pairs, and their description in words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flowvae.comparisons.engine.protocol import check_pair, check_table
from flowvae.core.errors import FlowvaeError, nearest, shown
from flowvae.evaluation.calibration.holm import holm

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["LEAST_SEEDS", "LEVEL", "MARGIN", "describe", "paired_differences", "summarize"]

Array = np.ndarray[Any, Any]

LEVEL = 0.05  # family-wise error rate over all pairs of a question, per measure and kind of test
ROUNDING = 1e-6  # relative difference of two arms with the same weights due to summation in float32
LEAST_SEEDS = 3  # for a test or an interval; with two, t has one degree of freedom
MARGIN = 0.5  # in nats or the measure's unit: mean differences within ± MARGIN count as equivalent


def paired_differences(table: pd.DataFrame, pairs: Sequence[tuple[str, str]], measure: str) -> pd.DataFrame:
    """Test the mean difference of pairs of arms over their shared seeds for difference and for equivalence.

    Args:
        table: one row per run, with columns arm and seed, such as that of `run_grid`.
        pairs: pairs (arm, against), of which the first is compared with the second.
        measure: column to compare.

    Returns:
        One row per pair: arm, against, mean difference, its standard error over seeds, its 95 % t interval, the number
        of seeds, p of the paired t test, p after Holm's correction over the pairs, and both (p_same, p_same_holm) for
        the two one-sided tests against a mean difference of `MARGIN` or more. Differences within rounding error count
        as 0. If a value is not finite, the difference is NaN and p = 1. For a pair with fewer than `LEAST_SEEDS` seeds
        the interval and the four p-values are NaN.

    References:
        Schuirmann (1987), "A Comparison of the Two One-Sided Tests Procedure and the Power Approach for Assessing the
        Equivalence of Average Bioavailability".

    Raises:
        FlowvaeError: for an arm or a measure that is not in the table, fewer than two shared seeds, or arms that were
            measured under two protocols.
    """
    import pandas as pd

    if measure not in table:
        raise FlowvaeError(f"measure {shown(measure)}: not in the table; {nearest(measure, map(str, table.columns))}")
    values = table.pivot(index="seed", columns="arm", values=measure)
    rows = []
    for arm, against in pairs:
        for name in (arm, against):
            if name not in values:
                raise FlowvaeError(f"arm {shown(name)}: has no finished run; {nearest(name, map(str, values.columns))}")
        check_pair(table, arm, against)
        both = values[[arm, against]].dropna()
        if len(both) < 2:
            raise FlowvaeError(
                f"{arm} and {against}: {len(both)} shared seed(s); a standard error over seeds needs two or more."
            )
        rows.append({"arm": arm, "against": against, **_tested(both[arm].to_numpy(), both[against].to_numpy())})
    frame = pd.DataFrame(rows)
    tested = frame["seeds"] >= LEAST_SEEDS
    for name in ("p", "p_same"):
        frame[f"{name}_holm"] = math.nan
        frame.loc[tested, f"{name}_holm"] = holm(frame.loc[tested, name].to_numpy(float))
    return frame


def _tested(one: Array, other: Array) -> dict[str, float]:
    """Compute difference, interval and tests for paired values (seeds,) of two arms."""
    from statsmodels.stats.weightstats import DescrStatsW

    differences = one - other
    if np.isfinite(differences).all():
        differences[np.abs(differences) <= ROUNDING * np.maximum(np.abs(one), np.abs(other))] = 0.0
    else:
        differences[:] = math.nan
    found = DescrStatsW(differences)
    row = {"difference": found.mean, "se": found.std_mean, "low": math.nan, "high": math.nan, "seeds": len(differences)}
    if len(differences) < LEAST_SEEDS:
        return row | {"p": math.nan, "p_same": math.nan}
    if found.std_mean > 0:
        row["low"], row["high"] = found.tconfint_mean()
        return row | {"p": found.ttest_mean()[1], "p_same": found.ttost_mean(-MARGIN, MARGIN)[0]}
    row["low"] = row["high"] = found.mean  # equal in every seed, or NaN
    return row | {"p": float(not abs(found.mean) > 0), "p_same": float(not abs(found.mean) < MARGIN)}


def summarize(table: pd.DataFrame, measures: Iterable[str]) -> pd.DataFrame:
    """Summarize each arm: seeds, parameters, mean ± standard error over seeds of each measure, epochs, seconds.

    Args:
        table: one row per run, such as that of `run_grid`.
        measures: columns to report, in order.

    Raises:
        FlowvaeError: for runs of two protocols.
    """
    import pandas as pd

    check_table(table)
    rows = []
    for arm, runs in table.groupby("arm", sort=False):
        row: dict[str, Any] = {"arm": arm, "seeds": len(runs), "parameters": int(runs["parameters"].iloc[0])}
        for name in measures:
            row[name] = f"{runs[name].mean():.2f} ± {runs[name].sem():.2f}"
        rows.append({**row, "epochs": f"{runs['epochs'].mean():.0f}", "seconds a run": f"{runs['seconds'].mean():.0f}"})
    return pd.DataFrame(rows)


def describe(row: pd.Series, unit: str, lower_is_better: bool) -> str:
    """Describe one row of `paired_differences` in a sentence, by `LEVEL`, `MARGIN` and `LEAST_SEEDS` alone.

    Args:
        row: the row.
        unit: unit of the measure.
        lower_is_better: direction of the measure.
    """
    arm, against = row["arm"], row["against"]
    if math.isnan(row["difference"]):
        return f"{arm} against {against}: not compared, since a value of {row['seeds']:.0f} seeds is not finite."
    figures = f"{row['difference']:+.2f} ± {row['se']:.2f} {unit}"
    if row["seeds"] < LEAST_SEEDS:
        return (
            f"{arm} against {against}: {figures}, {row['seeds']:.0f} seeds: too few for a test (below {LEAST_SEEDS})."
        )
    figures += f" [{row['low']:.2f}, {row['high']:.2f}], {row['seeds']:.0f} seeds, p = {row['p_holm']:.2g} after Holm"
    if row["p_holm"] < LEVEL:
        word = "better" if (row["difference"] < 0) == lower_is_better else "worse"
        return f"{arm} is {word} than {against}: {figures}."
    if row["p_same_holm"] < LEVEL:
        return f"{arm} and {against} do not differ by more than {MARGIN:g} (p = {row['p_same_holm']:.2g}): {figures}."
    return f"{arm} against {against}: these seeds do not decide: {figures}."
