"""Two protocols never share a table, nor a difference: other data, splits, quantities or draws."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from flowvae import Condition, Experiment, FlowvaeError, Mixture, load
from flowvae.cli.command import main
from flowvae.comparisons import BASES, PRESETS, Question, answer, paired_differences, run_grid, summarize
from flowvae.comparisons.engine.corrected_nll import corrected_nll
from flowvae.comparisons.engine.plan import make_plan
from flowvae.comparisons.engine.protocol import protocol_of
from flowvae.comparisons.engine.report import write_report
from flowvae.data import Arrays
from flowvae.evaluation import AnnealedHMC, Effort

PRESET = replace(PRESETS["seconds"], draws=10)
RNG = np.random.default_rng(0)
GREY = RNG.uniform(size=(90, 6))
LABELS = RNG.integers(0, 2, 90)


def bits(folder: Path, seed: int) -> Path:
    """A data set "bits", whose grey levels are binarized by this seed."""
    folder.mkdir()
    np.savez(folder / "bits.npz", train=np.random.default_rng(seed).uniform(size=GREY.shape) < GREY, labels=LABELS)
    return folder / "bits.npz"


@pytest.fixture
def base(coins: Experiment, tmp_path: Path) -> Experiment:
    return replace(coins, data=Arrays(bits(tmp_path / "static", 0), "bernoulli"))  # type: ignore[arg-type]


def question(**arms: Any) -> Question:
    """The arm "normal" is the base experiment; the others differ from it in these parts."""
    return Question(
        "mixed",
        "Does it help?\n\nWhat theory predicts: nothing.",
        lambda base, data: {"normal": base, **{name: replace(base, **parts) for name, parts in arms.items()}},
        baseline="normal",
        data=("coins",),
    )


def test_two_identities_of_one_name_have_two_protocols(base: Experiment, tmp_path: Path) -> None:
    static = base.data.load(0)
    again = Arrays(bits(tmp_path / "again", 0), "bernoulli").load(0)  # type: ignore[arg-type]
    dynamic = Arrays(bits(tmp_path / "dynamic", 1), "bernoulli").load(0)  # type: ignore[arg-type]
    assert static.name == dynamic.name == again.name
    assert protocol_of(static, None) == protocol_of(again, None)
    assert protocol_of(static, None) != protocol_of(dynamic, None)
    told = replace(static, preprocessing="drawn anew each epoch")
    assert protocol_of(static, None)["sha256"] == protocol_of(told, None)["sha256"]
    assert protocol_of(static, None)["protocol"] != protocol_of(told, None)["protocol"]
    assert protocol_of(replace(static, test=static.valid), None) != protocol_of(static, None)
    assert protocol_of(static, Condition()) != protocol_of(static, None)


def test_a_density_and_a_probability_are_two_protocols(base: Experiment) -> None:
    data = base.data.load(0)
    counts, density = (protocol_of(replace(data, likelihood=name), None) for name in ("binomial:1", "gaussian"))
    assert counts["protocol"] != density["protocol"]
    assert counts == protocol_of(data, None)  # Bernoulli and binomial give probabilities of the same bits


@pytest.mark.parametrize("kind", ["data", "quantity", "condition"])
def test_an_arm_of_another_protocol_is_refused_before_any_run(kind: str, base: Experiment, tmp_path: Path) -> None:
    parts: dict[str, Any] = {
        "data": {"data": Arrays(bits(tmp_path / "dynamic", 1), "bernoulli")},  # type: ignore[arg-type]
        "quantity": {"data": replace(base.data, likelihood="gaussian:0.1")},  # type: ignore[type-var]
        "condition": {"condition": Condition(prior=False)},
    }[kind]
    with pytest.raises(FlowvaeError) as info:
        answer(question(other=parts, mixture={"prior": Mixture(2)}), base, PRESET, tmp_path / "out", progress=False)
    other = replace(base, **parts)
    for experiment in (base, other):
        found = protocol_of(experiment.data.load(0), experiment.condition)
        assert found["protocol"] in str(info.value)
        assert found["sha256"] in str(info.value)
    assert "\n" not in str(info.value)
    assert not (tmp_path / "out").exists()


def test_arms_that_share_their_condition_are_compared(base: Experiment, tmp_path: Path) -> None:
    base = replace(base, condition=Condition(prior=False))
    plan = make_plan(question(mixture={"prior": Mixture(2)}), base, PRESET, tmp_path, None, 0)
    assert plan.arms.keys() == {"normal", "mixture"}
    assert "given labels" in protocol_of(plan.data, base.condition)["protocol"]


@pytest.fixture
def mixed(base: Experiment, tmp_path: Path) -> pd.DataFrame:
    """A grid that somebody has made over two identities of one name."""
    dynamic = replace(base, data=Arrays(bits(tmp_path / "dynamic", 1), "bernoulli"))  # type: ignore[arg-type]
    quick = replace(base.inference, epochs=1)
    arms = {"static": replace(base, inference=quick), "dynamic": replace(dynamic, inference=quick)}
    arms["mixture"] = replace(arms["static"], prior=Mixture(2))
    return run_grid(arms, range(2), tmp_path / "cells", draws=5, progress=False).table


def test_no_difference_across_two_identities(mixed: pd.DataFrame) -> None:
    assert len(paired_differences(mixed, [("mixture", "static")], "nll")) == 1
    with pytest.raises(FlowvaeError) as info:
        paired_differences(mixed, [("mixture", "static"), ("dynamic", "static")], "nll")
    for arm in ("static", "dynamic"):
        assert mixed.loc[(mixed["arm"] == arm) & (mixed["seed"] == 0), "sha256"].item() in str(info.value)


def test_no_table_of_two_preprocessings(mixed: pd.DataFrame) -> None:
    told = mixed.assign(protocol=mixed["protocol"].where(mixed["arm"] != "dynamic", "bits: drawn anew"))
    summarize(told[told["arm"] != "dynamic"], ["nll"])
    with pytest.raises(FlowvaeError, match="drawn anew"):
        summarize(told, ["nll"])


def test_a_report_shows_each_protocol_and_none_that_mixes_two(
    base: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(BASES, "bits", base)
    monkeypatch.setitem(PRESETS, "tiny", PRESET)
    question(mixture={"prior": Mixture(2)})
    assert main(["compare", "mixed", "--data", "bits", "--preset", "tiny", "--out", str(tmp_path / "out")]) == 0
    (place,) = [file.parent for file in (tmp_path / "out").glob("*/answer.json")]
    identity = base.data.load(0).identity
    table = pd.read_csv(place / "table.csv")
    assert table["protocol"][0] in capsys.readouterr().out
    page = write_report(tmp_path / "out").read_text()
    assert "<h2>Does it help? <small>bits</small></h2>" in page
    assert f"Data bits: preprocessing {identity.preprocessing}; {identity.split}" in page
    table.loc[0, "protocol"] = "bits.npz: drawn anew"
    table.to_csv(place / "table.csv", index=False)
    with pytest.raises(FlowvaeError, match="drawn anew"):
        write_report(tmp_path / "out")


def test_a_measure_that_somebody_took_with_other_draws_is_no_column(base: Experiment, tmp_path: Path) -> None:
    arms = {"normal": replace(base, inference=replace(base.inference, epochs=1))}
    first = run_grid(arms, range(2), tmp_path, draws=5, progress=False).table
    for draws, cell in zip((5, 7), first["cell"], strict=True):
        load(tmp_path / cell).evaluate(split="valid", draws=draws, progress=False)
    again = run_grid(arms, range(2), tmp_path, draws=5, progress=False).table
    assert again["nll_valid"].notna().tolist() == [True, False]
    assert again["nll"].tolist() == first["nll"].tolist()


def test_corrected_figures_are_those_of_the_answer(base: Experiment, tmp_path: Path) -> None:
    place, effort = tmp_path / "answer", Effort(4, 2, AnnealedHMC(chains=2, temperatures=2))
    arms = {"normal": replace(base, inference=replace(base.inference, epochs=1))}

    def measure(draws: int) -> pd.DataFrame:
        how: dict[str, Any] = {"measures": ("gaps",), "effort": effort, "progress": False}
        return run_grid(arms, range(2), tmp_path / "cells", draws=draws, **how).table

    place.mkdir()
    measure(5).to_csv(place / "table.csv", index=False)
    protocol = {"data": "bits", "split": "test", "seeds": [0, 1], "draws": 5, "measure": "nll"}
    (place / "answer.json").write_text(json.dumps(protocol))
    assert corrected_nll(place)["protocol"].nunique() == 1
    measure(12)  # somebody asks another question of the same cells
    with pytest.raises(FlowvaeError) as info:
        corrected_nll(place)
    assert "K = 5" in str(info.value)
    assert "K = 12" in str(info.value)


def test_a_question_may_have_data_of_its_own(base: Experiment, tmp_path: Path) -> None:
    smaller = Arrays(bits(tmp_path / "smaller", 2), "bernoulli")  # type: ignore[arg-type]
    asked = question(normal={"data": smaller}, mixture={"data": smaller, "prior": Mixture(2)})
    plan = make_plan(asked, base, PRESET, tmp_path, None, 0)
    assert plan.data.identity == smaller.load(0).identity != base.data.load(0).identity
