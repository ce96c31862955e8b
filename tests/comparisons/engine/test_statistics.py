"""Paired statistics against SciPy's own test, Holm's correction against its definition."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student
from scipy.stats import ttest_rel

from flowvae import FlowvaeError
from flowvae.comparisons.engine.statistics import MARGIN, describe, paired_differences
from flowvae.evaluation.calibration.holm import holm


def table(**arms: list[float]) -> pd.DataFrame:
    rows = [(arm, seed, value) for arm, values in arms.items() for seed, value in enumerate(values)]
    return pd.DataFrame(rows, columns=["arm", "seed", "nll"])


def test_differences_are_those_of_a_paired_t_test() -> None:
    a, b = [92.0, 90.5, 94.1, 91.7], [91.2, 90.0, 94.3, 90.1]
    row = paired_differences(table(a=a, b=b), [("b", "a")], "nll").iloc[0]
    truth = ttest_rel(b, a)
    assert row["difference"] == pytest.approx(sum(b) / 4 - sum(a) / 4)
    assert row["difference"] / row["se"] == pytest.approx(truth.statistic)
    assert (row["p"], row["p_holm"]) == pytest.approx((truth.pvalue, truth.pvalue))
    low, high = truth.confidence_interval(0.95)
    assert (row["low"], row["high"]) == pytest.approx((low, high))
    sides = [
        ttest_rel(b, np.array(a) + side * MARGIN, alternative=than) for side, than in ((-1, "greater"), (1, "less"))
    ]
    assert row["p_same"] == pytest.approx(max(side.pvalue for side in sides))


@pytest.mark.parametrize("seeds", [3, 5, 20])
def test_tests_of_several_pairs_are_those_of_their_formulas(seeds: int) -> None:
    """By the t distribution alone: interval, t test, the larger of two one-sided tests, and Holm's products."""
    rng = np.random.default_rng(seeds)
    values = {f"arm-{n}": rng.normal(0.1 * n, 0.5, seeds) for n in range(6)}
    arms = [*values][1:]
    found = paired_differences(table(**{k: v.tolist() for k, v in values.items()}), [(a, "arm-0") for a in arms], "nll")
    d = np.stack([values[arm] - values["arm-0"] for arm in arms])
    mean, se = d.mean(1), d.std(1, ddof=1) / math.sqrt(seeds)
    p = 2 * student.sf(abs(mean) / se, seeds - 1)
    p_same = student.sf((MARGIN - abs(mean)) / se, seeds - 1)
    reach = student.ppf(0.975, seeds - 1) * se
    expected = {"difference": mean, "se": se, "low": mean - reach, "high": mean + reach, "p": p, "p_same": p_same}
    for name, values_p in (("p", p), ("p_same", p_same)):
        order = np.argsort(values_p)
        stepwise = np.minimum(np.maximum.accumulate(np.arange(5, 0, -1) * values_p[order]), 1)
        expected[f"{name}_holm"] = stepwise[np.argsort(order)]
    for name, column in expected.items():
        np.testing.assert_allclose(found[name], column, rtol=1e-10, err_msg=name)


def test_mistakes_are_named() -> None:
    both = table(a=[1.0, 2.0], b=[1.0, 3.0])
    with pytest.raises(FlowvaeError, match="'c': has no finished run"):
        paired_differences(both, [("a", "c")], "nll")
    with pytest.raises(FlowvaeError, match="did you mean nll"):
        paired_differences(both, [("a", "b")], "nl")
    with pytest.raises(FlowvaeError, match="two or more"):
        paired_differences(both[both["seed"] == 0], [("a", "b")], "nll")


def test_holm_rejects_what_the_stepwise_procedure_rejects() -> None:
    p = [0.001, 0.3, 0.012, 0.04, 0.011, 0.9]
    for level in (0.01, 0.05, 0.06, 0.2):
        rejected = set()
        for rank, value in enumerate(sorted(p)):  # the procedure as Holm states it
            if value >= level / (len(p) - rank):
                break
            rejected.add(value)
        assert {value for value, adjusted in zip(p, holm(np.array(p)), strict=True) if adjusted < level} == rejected


def test_words_follow_the_thresholds() -> None:
    def words(b: list[float]) -> str:
        row = paired_differences(table(a=[0.0] * len(b), b=b), [("b", "a")], "nll").iloc[0]
        return describe(row, "nats per datum", lower_is_better=True)

    assert words([-1.0, -1.1, -0.9, -1.0]).startswith("b is better than a: -1.00 ± 0.04 nats per datum")
    assert words([1.0, 1.1, 0.9, 1.0]).startswith("b is worse than a")
    assert words([0.1, -0.1, 0.05, -0.02]).startswith("b and a do not differ by more than 0.5")
    assert "do not decide" in words([1.0, -1.0, 2.0])


def test_two_seeds_are_not_tested() -> None:
    """A paired t test of two differences has one degree of freedom: p = 0.0025 here, of two runs of two epochs."""
    frame = paired_differences(table(a=[240.0, 241.0], b=[235.0, 235.96]), [("b", "a")], "nll")
    row = frame.iloc[0]
    assert ttest_rel([235.0, 235.96], [240.0, 241.0]).pvalue < 0.01
    assert row[["low", "high", "p", "p_same", "p_holm", "p_same_holm"]].isna().all()
    words = describe(row, "nats per datum", lower_is_better=True)
    assert "-5.02 ± 0.02 nats per datum, 2 seeds" in words
    assert not any(word in words for word in ("better", "worse", "differ", "p ="))


def test_pairs_that_are_not_tested_do_not_count_in_the_correction() -> None:
    three = table(a=[1.0, 2.0, 3.0], b=[1.5, 2.4, 3.6], c=[1.0, 2.5, 3.5])
    frame = paired_differences(three.iloc[:-1], [("b", "a"), ("c", "a")], "nll")
    assert frame["p_holm"].iloc[0] == frame["p"].iloc[0]
    assert np.isnan(frame["p_holm"].iloc[1])


def test_equality_is_corrected_for_the_number_of_pairs() -> None:
    """One pair in twenty whose three seeds happen to agree must not be called equal."""
    others = {f"arm-{n}": [100.0 + 3 * n, 104.0 - n, 90.0 + n] for n in range(19)}
    frame = paired_differences(
        table(a=[100.0] * 3, near=[100.1, 100.2, 100.0], **others), [(arm, "a") for arm in ("near", *others)], "nll"
    )
    near = frame.iloc[0]
    assert near["p_same"] < 0.05 < near["p_same_holm"]
    assert "do not decide" in describe(near, "nats", True)


def test_values_that_are_not_finite_decide_nothing() -> None:
    row = paired_differences(table(a=[1.0, 2.0, 3.0], b=[1.1, float("inf"), 3.2]), [("b", "a")], "nll").iloc[0]
    assert (row["p_holm"], row["p_same_holm"]) == (1, 1)
    assert describe(row, "nats", True) == "b against a: not compared, since a value of 3 seeds is not finite."


def test_what_differs_by_rounding_alone_is_equal() -> None:
    """Two arms with the same decoder, summed in float32 in two orders."""
    a = [82.501, 82.774, 81.993]
    row = paired_differences(table(a=a, b=[value + 1.1e-5 for value in a]), [("b", "a")], "nll").iloc[0]
    assert (row["difference"], row["se"], row["p_holm"], row["p_same_holm"]) == (0, 0, 1, 0)
    apart = paired_differences(table(a=a, b=[value + 1e-3 for value in a]), [("b", "a")], "nll").iloc[0]
    assert apart["difference"] == pytest.approx(1e-3)
