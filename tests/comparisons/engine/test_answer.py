"""An answer leaves what a report needs, and is asked on own data as on data that ship with a base experiment."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from comparison_cases import loaded
from matplotlib import pyplot as plt

from flowvae import FlowvaeError, Mixture
from flowvae.cli.command import main
from flowvae.comparisons import BASES, PRESETS, QUESTIONS, Preset, Question, answer
from flowvae.comparisons.engine.grid import Grid, cell_name, run_grid
from flowvae.comparisons.engine.plots import draw_priors, plot_curves
from flowvae.core.parts import Condition
from flowvae.data import Arrays, StaticMNIST, as_data
from flowvae.data.dataset import SPLITS
from flowvae.evaluation import AnnealedHMC, Effort
from flowvae.experiments.experiment import Experiment
from flowvae.experiments.run import load
from flowvae.inference import Training
from flowvae.networks import MLP


def test_an_answer_leaves_tables_words_and_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, coins: Experiment
) -> None:
    monkeypatch.setitem(BASES, "coins", coins)
    effort = PRESETS["seconds"].effort
    monkeypatch.setitem(PRESETS, "tiny", replace(PRESETS["seconds"], seeds=3))
    question = Question(
        "coins",
        "Does a mixture help with coins?\n\nWhat theory predicts: nothing.",
        lambda base, data: {"normal": base, "mixture": replace(base, prior=Mixture(2))},
        baseline="normal",
        data=("coins",),
        secondary=("elbo", "active_units", "inference_gap", "marginal_kl_train"),
        measures=("activity", "gaps", "surgery"),
        draw=lambda runs, table: {
            "curve": plot_curves(table, {"": [(1, "normal"), (2, "mixture")]}, "nll", "K", "NLL")
        },
    )
    result = answer(question, "coins", "tiny", tmp_path, progress=False)
    assert result.directory == tmp_path / "coins-coins-tiny"
    assert {file.name for file in result.directory.iterdir()} == {
        "answer.json",
        "answer.md",
        "curve.png",
        "differences-elbo.csv",
        "differences-inference_gap.csv",
        "differences-active_units.csv",
        "differences-marginal_kl_train.csv",
        "differences-nll.csv",
        "differences.png",
        "failed.csv",
        "table.csv",
    }
    assert result.grid.table["active_units"].between(0, 2).all()
    gap, amortization, approximation = (
        result.grid.table[f"{name}_gap"] for name in ("inference", "amortization", "approximation")
    )
    assert ((gap - amortization - approximation).abs() < 1e-4).all()
    assert (amortization > -0.2).all()  # by the few draws of another estimate than that which chose
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "cells").rglob("*") if file.is_file()}
    answer(question, "coins", "tiny", tmp_path, progress=False)  # and nothing is measured again
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "cells").rglob("*") if file.is_file()} == before
    protocol = json.loads((result.directory / "answer.json").read_text())
    assert protocol["asks"] == "Does a mixture help with coins?"
    assert protocol["seeds"] == [0, 1, 2]
    assert protocol["effort"] == effort.as_dict()
    assert protocol["sentences"] == result.sentences
    assert protocol["versions"]["torch"] == version("torch")
    stored = pd.read_csv(result.directory / "differences-nll.csv")
    table = pd.read_csv(result.directory / "table.csv").pivot(index="seed", columns="arm", values="nll")
    assert stored["difference"].iloc[0] == pytest.approx((table["mixture"] - table["normal"]).mean())
    assert protocol["identity"] == coins.data.load(0).identity.as_dict()
    page = (result.directory / "answer.md").read_text()
    assert protocol["identity"]["split"] in page
    assert all(f"- {sentence}\n" in page for sentence in result.sentences)
    means = [[cell.strip() for cell in line.split("|")] for line in page.splitlines() if line.startswith("|")][:3]
    (shown,) = (dict(zip(means[0], row, strict=True)) for row in means if row[1] == "normal")
    assert shown["nll"] == f"{table['normal'].mean():.2f} ± {table['normal'].std() / 3**0.5:.2f}"
    (result.directory / "differences-of-an-earlier-answer.png").write_bytes(b"")
    (result.directory / "differences-fid.csv").write_text("arm")
    others = answer(question, "coins", "tiny", tmp_path, first_seed=1, progress=False)  # one more cell an arm
    assert others.directory == tmp_path / "coins-coins-tiny-from-seed-1"
    assert list(others.grid.table["seed"]) == [1, 1, 2, 2, 3, 3]
    answer(question, "coins", "tiny", tmp_path, progress=False)
    assert not [*result.directory.glob("*earlier*"), *result.directory.glob("*fid*")]
    with pytest.raises(FlowvaeError, match=r"no cell has the measure 'fid'"):
        answer(replace(question, secondary=("fid",)), "coins", "tiny", tmp_path, progress=False)
    assert not [*result.directory.glob("answer.*")]  # no sentences of an earlier answer beside the new table
    preset = Preset(seeds=3, epochs=2, draws=20, effort=effort)
    mine = answer(question, "coins", preset, str(tmp_path), progress=False)
    assert mine.directory == tmp_path / "coins-coins-3-seeds-2-epochs-20-draws"
    assert mine.grid.table.equals(result.grid.table)  # the same cells


def test_a_question_of_your_own_on_data_of_your_own(tmp_path: Path, coins: Experiment) -> None:
    """In Python and from the command line: the same runs and the same answer."""
    Question(
        "mixtures",
        "Does a mixture help?\n\nWhat theory predicts: nothing.",
        lambda base, data: {"normal": base, "mixture": replace(base, prior=Mixture(2))},
        baseline="normal",
    )
    preset = Preset(seeds=2, epochs=1, draws=5, effort=PRESETS["seconds"].effort)
    found = answer("mixtures", coins, preset, tmp_path / "out", progress=False)
    assert found.directory.name == f"mixtures-coins.npy-{cell_name(coins)[:8]}-2-seeds-1-epochs-5-draws"
    assert found.grid.failed.empty
    protocol = json.loads((found.directory / "answer.json").read_text())
    assert protocol["data"] == "coins.npy"
    assert {arm["data"]["path"] for arm in protocol["arms"].values()} == {str(tmp_path / "coins.npy")}
    weights = {file: file.stat().st_mtime_ns for file in (tmp_path / "out" / "cells").rglob("*.safetensors")}
    assert len(weights) == 4
    coins.to_yaml(tmp_path / "mine.yaml")
    words = ["--preset", "seconds", "--epochs", "1", "--draws", "5", "--out", str(tmp_path / "out")]
    assert main(["compare", "mixtures", "--config", str(tmp_path / "mine.yaml"), *words]) == 0
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "out" / "cells").rglob("*.safetensors")} == weights
    assert len(list((tmp_path / "out").glob("*/answer.json"))) == 1


def test_chosen_arms_are_a_separate_answer_from_the_same_cells(tmp_path: Path, coins: Experiment) -> None:
    arms = ("zero", "one", "two")

    def at_levels(base: Experiment, data: object) -> dict[str, Experiment]:
        return {
            f"{arm}@{level}": replace(base, latent=level, prior=Mixture(1 + number))
            for number, arm in enumerate(arms)
            for level in (1, 2)
        }

    question = Question("levels", "?", at_levels, baseline="zero", pairs=(("one", "two"),))
    preset = Preset(seeds=2, epochs=1, draws=5, effort=PRESETS["seconds"].effort)
    some = answer(question, coins, preset, tmp_path, arms=("two", "zero"), progress=False)
    assert list(dict.fromkeys(some.grid.table["arm"])) == ["zero@1", "zero@2", "two@1", "two@2"]
    assert some.directory.name.endswith("-zero-two")
    done = {file: file.stat().st_mtime_ns for file in (tmp_path / "cells").rglob("metrics.json")}
    every = answer(question, coins, preset, tmp_path, progress=False)
    assert every.directory.name == some.directory.name.removesuffix("-zero-two")
    assert {file: file.stat().st_mtime_ns for file in done} == done
    assert answer(question, coins, preset, tmp_path, arms=arms, progress=False).directory == every.directory
    alone = answer(question, coins, preset, tmp_path, arms="zero", progress=False)
    assert set(alone.grid.table["arm"]) == {"zero@1", "zero@2"}
    with pytest.raises(FlowvaeError, match="'3'"):
        answer(question, coins, preset, tmp_path, arms=("zero", 3))  # type: ignore[arg-type]
    with pytest.raises(FlowvaeError, match="'three'"):
        answer(question, coins, preset, tmp_path, arms=("zero", "three"))
    with pytest.raises(FlowvaeError, match="zero"):
        answer(question, coins, preset, tmp_path, arms="one")


def test_failed_runs_are_named_first(tmp_path: Path, coins: Experiment) -> None:
    def arms(base: Experiment, data: object) -> dict[str, Experiment]:
        return {"normal": base, "hot": replace(base, inference=replace(base.inference, learning_rate=1e38))}

    preset = Preset(seeds=2, epochs=3, draws=5, effort=PRESETS["seconds"].effort)
    found = answer(Question("hot", "?", arms, baseline="normal"), coins, preset, tmp_path, progress=False)
    assert len(found.grid.failed) == 2
    assert found.sentences[0].startswith(
        "2 of 4 runs failed, so their seeds are missing below; the first (hot, seed 0)"
    )
    assert "TrainingStopped" in found.sentences[0]


def test_a_question_on_data_that_were_given_in_python(tmp_path: Path, coins: Experiment) -> None:
    bits = np.random.default_rng(0).integers(0, 2, (60, 6))
    base = replace(coins, data=as_data(bits, "bernoulli", name="bits"))
    question = Question("bits", "?", lambda base, data: {"a": base, "b": replace(base, prior=Mixture(2))}, baseline="a")
    preset = Preset(seeds=2, epochs=1, draws=5, effort=PRESETS["seconds"].effort)
    found = answer(question, base, preset, tmp_path, progress=False)
    assert found.grid.failed.empty
    assert found.directory.name.startswith("bits-bits-")
    for file in (tmp_path / "cells").glob("*/metrics.json"):
        file.unlink()
    again = answer(question, base, preset, tmp_path, progress=False)  # measured anew, on the data that are given again
    assert again.grid.failed.empty
    assert again.grid.table["nll"].equals(found.grid.table["nll"])


@pytest.mark.parametrize("condition", [None, Condition(prior=False)], ids=["unconditional", "conditional"])
def test_own_images_in_colour_have_pictures(tmp_path: Path, condition: Condition | None) -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 2, (40, 3, 6, 6)), rng.integers(0, 2, 40)
    np.savez(tmp_path / "mine.npz", **dict.fromkeys(SPLITS, images), **{f"labels_{s}": labels for s in SPLITS})
    base = Experiment(
        latent=2,
        encoder=MLP((4,)),
        decoder=MLP((4,)),
        data=Arrays(tmp_path / "mine.npz", likelihood="bernoulli"),
        inference=Training(epochs=1, device="cpu"),
        condition=condition,
    )
    question = Question(
        "mixtures",
        "Does a mixture help?",
        lambda base, data: {"normal": base, "mixture": replace(base, prior=Mixture(2))},
        baseline="normal",
        draw=lambda runs, table: draw_priors(runs, {"normal": "N(0, I)"}),
    )
    found = answer(question, base, Preset(2, 1, 5), tmp_path / "out", progress=False)
    assert {file.stem for file in (found.directory / "samples").iterdir()} == {"data", "normal", "mixture"}
    picture = plt.imread(found.directory / "samples" / "data.png")
    assert picture.shape == (132, 132, 4)  # 5 × 5 images of 24 × 24 with lines of 2 between them
    enlarged = images[0].transpose(1, 2, 0).repeat(4, 0).repeat(4, 1)
    np.testing.assert_array_equal(picture[2:26, 2:26, :3], enlarged)
    assert (found.directory / "priors.png").is_file()


def test_other_settings_of_own_data_have_another_answer(
    tmp_path: Path, coins: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["flowvae.comparisons.engine.answer"], "run_grid", lambda *_, **__: 1 / 0)
    for base in (coins, replace(coins, latent=3)):
        with pytest.raises(ZeroDivisionError):
            answer("prior-flows", base, "seconds", tmp_path / "out")
    assert len(list((tmp_path / "out").iterdir())) == 4  # and a lock beside each


def test_mistakes_are_named_before_any_work(tmp_path: Path, coins: Experiment) -> None:
    def refused(*arguments: object, **settings: object) -> str:
        with pytest.raises(FlowvaeError) as info:
            answer(*arguments, out=tmp_path / "out", **settings)  # type: ignore[arg-type]
        assert not (tmp_path / "out").exists()
        return str(info.value)

    assert "'capacty'" in refused("capacty", "digits")
    assert "'minute'" in refused("capacity", "digits", "minute")
    assert all(word in refused("capacity", "digit") for word in ("'digit'", "digits", "--config"))
    assert "mine.npz" in refused("capacity", coins, path=Path("mine.npz"))
    assert "base = 3" in refused("capacity", 3)
    assert "'fidd'" in refused(replace(QUESTIONS["capacity"], measures=("fidd",)))
    assert "jobs = 0" in refused("capacity", jobs=0)


def test_a_data_file_that_is_not_there_is_missed_before_the_first_cell(tmp_path: Path) -> None:
    question = QUESTIONS["prior-or-posterior"]
    with pytest.raises(FlowvaeError, match=r"bits\.npz.*no such file"):
        answer(question, "static-mnist", "minutes", tmp_path / "out", path=tmp_path / "bits.npz")
    assert not (tmp_path / "out").exists()
    with pytest.raises(FlowvaeError, match=r"bits\.npz.*digits"):
        answer(question, "digits", "minutes", tmp_path / "out", path=tmp_path / "bits.npz")
    arms = question.experiments("static-mnist", "minutes", path=tmp_path / "bits.npz", data=loaded("static-mnist"))
    assert {experiment.data for experiment in arms.values()} == {StaticMNIST(tmp_path / "bits.npz")}


def test_seeds_that_broke_in_one_arm_cost_only_its_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arms a and b have no two seeds in common, c has all."""
    cells = {"a": (0, 1), "b": (2, 3), "c": (0, 1, 2, 3)}
    rows = [
        {
            "arm": arm,
            "seed": seed,
            "cell": "",
            "parameters": 1,
            "epochs": 1,
            "seconds": 1.0,
            "nll": 1.0 * seed,
            "nll_trusted": arm != "b",
            "elbo": 0.0,
        }
        for arm, seeds in cells.items()
        for seed in seeds
    ]
    none = pd.DataFrame(columns=["arm", "seed", "cell", "error"])
    module = sys.modules["flowvae.comparisons.engine.answer"]
    monkeypatch.setattr(module, "run_grid", lambda *_, **__: Grid(pd.DataFrame(rows), none))
    monkeypatch.setattr(module, "write_answer", lambda *_: None)
    base = replace(BASES["digits"], latent=2)
    arms = {arm: replace(base, seed=number) for number, arm in enumerate(cells)}
    question = Question("q", "Q?", lambda *_: arms, baseline="a", pairs=(("b", "c"),))
    found = answer(question, "digits", Preset(seeds=4, epochs=2, draws=20), tmp_path, progress=False)
    assert [*zip(found.differences["nll"]["arm"], found.differences["nll"]["against"], strict=True)] == [
        ("c", "a"),
        ("b", "c"),
    ]
    assert found.sentences[-1].startswith("nll by draws of the guide is not to be trusted")
    assert " for b: " in found.sentences[-1]


def test_images_that_stopped_the_training_are_not_called_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bits = np.packbits(np.random.default_rng(0).integers(0, 2, (40, 784)), axis=1)
    small = replace(
        BASES["static-mnist"],
        latent=2,
        encoder=MLP((4,)),
        decoder=MLP((4,)),
        inference=Training(epochs=1, batch_size=20, device="cpu"),
    )
    monkeypatch.setitem(BASES, "static-mnist", small)
    question = Question(
        "q",
        "Q?",
        lambda base, data: {"normal": base, "mixture": replace(base, prior=Mixture(2))},
        baseline="normal",
        data=("static-mnist",),
    )
    for name, splits in (("validation", ("train", "valid")), ("test", ("train", "valid", "test"))):
        file = tmp_path / f"{name}.npz"
        np.savez(file, **dict.fromkeys(splits, bits))  # type: ignore[arg-type]
        found = answer(question, "static-mnist", Preset(2, 1, 5), tmp_path / name, path=file, progress=False)
        assert json.loads((found.directory / "answer.json").read_text())["split"] == name
        assert f"Measured on the {name} data" in (found.directory / "answer.md").read_text()


def test_a_cell_is_measured_again_with_another_effort(tmp_path: Path) -> None:
    base = Experiment(latent=2, encoder=MLP((4,)), decoder=MLP((4,)), inference=Training(epochs=1, device="cpu"))
    small, larger = Effort(2, 3, AnnealedHMC(2, 2)), Effort(3, 3, AnnealedHMC(2, 2))
    for effort in (small, larger):
        grid = run_grid(
            {"a": base}, range(1), tmp_path, draws=5, measures=("gaps", "activity"), effort=effort, progress=False
        )
        run = load(tmp_path / grid.table["cell"].item())
        assert run.metric("approximation_gap").protocol["rows"] == effort.rows
        assert run.measured == {"likelihood": None, "activity": None, "gaps": effort.as_dict()}
