"""Paired statistics against a hand-made table, and runs that are found again."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest
from scipy.stats import ttest_rel

from flowvae import Experiment, FlowvaeError, Inference, Mixture
from flowvae.comparisons.paired import paired_differences, run_arms
from flowvae.comparisons.prior_flows import arms
from flowvae.networks import MLP


def test_differences_are_those_of_a_paired_t_test() -> None:
    a, b = [92.0, 90.5, 94.1, 91.7], [91.2, 90.0, 94.3, 90.1]
    table = pd.DataFrame({"arm": ["a"] * 4 + ["b"] * 4, "seed": [0, 1, 2, 3] * 2, "nll": a + b})
    row = paired_differences(table, "a", "nll").iloc[0]
    truth = ttest_rel(b, a)
    assert row["difference"] == pytest.approx(sum(b) / 4 - sum(a) / 4)
    assert row["difference"] / row["se"] == pytest.approx(truth.statistic)
    low, high = truth.confidence_interval(0.95)
    assert (row["low"], row["high"]) == pytest.approx((low, high))
    with pytest.raises(FlowvaeError, match="not an arm"):
        paired_differences(table, "c", "nll")
    with pytest.raises(FlowvaeError, match="two or more"):
        paired_differences(table[table["seed"] == 0], "a", "nll")


def test_arms_run_once_and_are_found_again(tmp_path: Path) -> None:
    base = Experiment(latent=2, encoder=MLP((8,)), decoder=MLP((8,)), inference=Inference(epochs=1, device="cpu"))
    both = {"normal": base, "mixture": Experiment(**{**base.__dict__, "prior": Mixture(3)})}
    table = run_arms(both, range(2), tmp_path, progress=False)
    assert list(table["arm"]) == ["normal", "normal", "mixture", "mixture"]
    assert math.isfinite(table["nll"].sum())
    pd.testing.assert_frame_equal(table, run_arms(both, range(2), tmp_path, progress=False))
    swapped = {"normal": both["mixture"]}
    with pytest.raises(FlowvaeError, match="another experiment"):
        run_arms(swapped, range(2), tmp_path, progress=False)


@pytest.mark.parametrize("data", ["digits", "pinwheel"])
def test_arms_differ_in_their_prior_alone(data: str) -> None:
    experiments = list(arms(data).values())  # type: ignore[arg-type]
    first = experiments[0].to_dict()
    for other in experiments[1:]:
        plain = other.to_dict()
        assert plain.pop("prior") != first["prior"]
        assert plain == {key: value for key, value in first.items() if key != "prior"}
