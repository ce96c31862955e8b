"""Paired differences over seeds, corrected for the number of arms, and what may be said of them in words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t as student

from flowvae.core.errors import FlowvaeError, nearest, shown
from flowvae.evaluation.calibration.holm import holm

__all__ = ["LEAST_SEEDS", "LEVEL", "MARGIN", "describe", "paired_differences", "summarize"]

LEVEL = 0.05  # of all pairs of a question in one measure, by Holm's correction, for differences and for equality
ROUNDING = 1e-6  # of the larger value: what two arms with the same weights may differ by, summed in float32
LEAST_SEEDS = 3  # of a test or an interval: a t statistic of two differences is their sign and little more
MARGIN = 0.5  # nats or the measure's own unit: a mean difference within ± MARGIN is one that does not matter


def paired_differences(table: pd.DataFrame, pairs: Sequence[tuple[str, str]], measure: str) -> pd.DataFrame:
    """Mean difference of each pair of arms over the seeds that they share.

    Args:
        table: one row a run, with columns arm and seed, such as `run_grid` gives.
        pairs: (arm, the arm that it is compared with).
        measure: column to compare.

    Returns:
        One row a pair: arm, against, mean difference, its standard error over seeds, its 95 % t interval, the number
        of seeds, p of the paired t test, and p after Holm's correction over the pairs; the same two (p_same,
        p_same_holm) of the two one-sided tests against a mean difference of `MARGIN` or more. Differences within
        rounding are 0; where a value is not finite, nothing is known of the pair (NaN, p = 1). A pair with fewer than
        `LEAST_SEEDS` seeds is not tested: its interval and its four p-values are missing (NaN).

    References:
        Schuirmann (1987), "A Comparison of the Two One-Sided Tests Procedure and the Power Approach for Assessing the
        Equivalence of Average Bioavailability".

    Raises:
        FlowvaeError: for an arm or a measure that is not in the table, or fewer than two shared seeds.
    """
    if measure not in table:
        raise FlowvaeError(f"measure {shown(measure)}: not in the table; {nearest(measure, map(str, table.columns))}")
    values = table.pivot(index="seed", columns="arm", values=measure)
    rows = []
    for arm, against in pairs:
        for name in (arm, against):
            if name not in values:
                raise FlowvaeError(f"arm {shown(name)}: has no finished run; {nearest(name, map(str, values.columns))}")
        both = values[[arm, against]].dropna()
        differences = both[arm] - both[against]
        count = len(differences)
        if count < 2:
            raise FlowvaeError(
                f"{arm} and {against}: {count} shared seed(s); a standard error over seeds needs two or more."
            )
        if np.isfinite(differences).all():
            differences[differences.abs() <= ROUNDING * both.abs().max(axis=1)] = 0.0
        else:
            differences[:] = math.nan
        mean, se = differences.mean(), differences.std() / math.sqrt(count)
        reach = student.ppf(0.975, count - 1) * se if count >= LEAST_SEEDS else math.nan
        row = {"arm": arm, "against": against, "difference": mean, "se": se, "low": mean - reach, "high": mean + reach}
        if count < LEAST_SEEDS:
            p = p_same = math.nan
        elif se > 0:
            p = 2 * student.sf(abs(mean) / se, count - 1)
            p_same = student.sf((MARGIN - abs(mean)) / se, count - 1)  # the larger of the two one-sided ones
        else:
            p, p_same = float(math.isnan(mean) or mean == 0), float(not abs(mean) < MARGIN)
        rows.append(row | {"seeds": count, "p": p, "p_same": p_same})
    frame = pd.DataFrame(rows)
    tested = frame["seeds"] >= LEAST_SEEDS
    for name in ("p", "p_same"):
        frame[f"{name}_holm"] = math.nan
        frame.loc[tested, f"{name}_holm"] = holm(frame.loc[tested, name].to_numpy(float))
    return frame


def summarize(table: pd.DataFrame, measures: Iterable[str]) -> pd.DataFrame:
    """One row an arm: seeds, parameters, mean ± standard error over seeds of each measure, epochs, seconds.

    Args:
        table: one row a run, such as `run_grid` gives.
        measures: columns to report, in their order.
    """
    rows = []
    for arm, runs in table.groupby("arm", sort=False):
        row: dict[str, Any] = {"arm": arm, "seeds": len(runs), "parameters": int(runs["parameters"].iloc[0])}
        for name in measures:
            row[name] = f"{runs[name].mean():.2f} ± {runs[name].sem():.2f}"
        rows.append({**row, "epochs": f"{runs['epochs'].mean():.0f}", "seconds a run": f"{runs['seconds'].mean():.0f}"})
    return pd.DataFrame(rows)


def describe(row: pd.Series, unit: str, lower_is_better: bool) -> str:
    """One row of `paired_differences` as a sentence; it depends on `LEVEL`, `MARGIN` and `LEAST_SEEDS` alone.

    Args:
        row: the row.
        unit: of the measure.
        lower_is_better: its direction.
    """
    arm, against = row["arm"], row["against"]
    if math.isnan(row["difference"]):
        return f"{arm} against {against}: not compared, for a value of {row['seeds']:.0f} seeds is not finite."
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
