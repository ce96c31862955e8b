"""The figure of paired differences shows every mean, however far out it is."""

from __future__ import annotations

import pandas as pd
import pytest

from flowvae.comparisons import QUESTIONS, paired_differences
from flowvae.comparisons.engine.plots import plot_differences


@pytest.mark.parametrize("far", [-40.0, 0.0, 40.0])
def test_every_mean_is_inside_the_figure(far: float) -> None:
    rows = [
        {"arm": arm, "seed": seed, "nll": 100 + shift + 0.1 * seed * (k + 1)}
        for seed in range(5)
        for k, (arm, shift) in enumerate({"normal": 0, **{f"arm-{n}": 0.1 * n for n in range(14)}, "far": far}.items())
    ]
    rows[-1]["nll"] += 500.0  # a seed that went astray
    table = pd.DataFrame(rows)
    pairs = [(f"arm-{n}", "normal") for n in range(14)] + [("far", "normal")]
    differences = paired_differences(table, pairs, "nll")
    (ax,) = plot_differences(table, differences, QUESTIONS["prior-flows"]).axes
    low, high = ax.get_xlim()
    assert ((differences["difference"] > low) & (differences["difference"] < high)).all()
    cut = {"<": (differences["low"] < low).sum(), ">": (differences["high"] > high).sum()}
    assert cut["<"] + cut[">"] > 0  # the stray seed's
    for marker, count in cut.items():
        assert sum(line.get_marker() == marker for line in ax.lines) == count


def test_a_pair_that_could_not_be_compared_leaves_its_line_empty() -> None:
    table = pd.DataFrame(
        [
            {"arm": arm, "seed": seed, "nll": value}
            for arm, value in (("a", 1.0), ("b", float("inf")))
            for seed in (0, 1)
        ]
    )
    differences = paired_differences(table, [("b", "a")], "nll")
    (ax,) = plot_differences(table, differences, QUESTIONS["prior-flows"]).axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["b − a"]
