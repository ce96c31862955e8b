"""Every question's arms are valid and differ in what is asked, and an answer leaves what a report needs."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from flowvae import FlowvaeError, Mixture
from flowvae.comparisons import QUESTIONS
from flowvae.comparisons.engine.answer import answer
from flowvae.comparisons.engine.grid import Grid, cell_name, run_grid
from flowvae.comparisons.engine.parameter_matching import count_parameters
from flowvae.comparisons.engine.plots import plot_curves
from flowvae.comparisons.engine.question import BASES, PRESETS, Preset, Question
from flowvae.comparisons.engine.statistics import LEAST_SEEDS
from flowvae.data import Arrays, DataSpec, Digits, Pinwheel, Sprites, StaticMNIST
from flowvae.evaluation import AnnealedHMC, Effort
from flowvae.experiments.experiment import Experiment, load
from flowvae.inference import Training
from flowvae.models import FlowDecoder
from flowvae.networks import MLP

CASES = [(name, data) for name, question in QUESTIONS.items() for data in question.data]


@pytest.mark.parametrize(("name", "data"), CASES)
@pytest.mark.parametrize("preset", PRESETS)
def test_arms_are_experiments_that_can_start(name: str, data: str, preset: str) -> None:
    question = QUESTIONS[name]
    arms = question.experiments(data, preset)
    assert question.name == name
    assert question.asks.endswith((".", "?"))
    assert "theory predicts" in question.predicts
    contrasts = question.contrasts(arms)
    assert len(set(contrasts)) == len(contrasts)
    for arm, against in contrasts:
        assert {arm, against} <= set(arms)
        assert arm.partition("@")[2] == against.partition("@")[2]
    assert {arm for arm, _ in contrasts} >= {arm for arm in arms if arm.partition("@")[0] != question.baseline}
    for experiment in arms.values():
        assert Experiment.from_dict(experiment.to_dict()) == experiment
        experiment.inference.check_steps(1257 if data == "digits" else 10_000)
        assert experiment.inference.epochs <= PRESETS[preset].epochs
        if experiment.second_stage:
            assert experiment.second_stage.inference.epochs <= PRESETS[preset].epochs


@pytest.mark.parametrize(("name", "data"), CASES)
def test_every_pair_and_costly_arm_names_arms_that_there_are(name: str, data: str) -> None:
    question = QUESTIONS[name]
    arms = question.experiments(data, "cluster")
    without_level = {arm.partition("@")[0] for arm in arms}
    assert {arm for pair in question.pairs for arm in pair} <= without_level
    assert question.baseline in without_level
    assert set(question.costly) <= set(arms)
    assert question.experiments(data, "hour").keys() == arms.keys() - set(question.costly)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("prior-flows", {"prior"}),
        ("posterior-flows", {"guide", "inference"}),
        ("prior-or-posterior", {"prior", "guide", "encoder"}),  # the encoder makes up for missing parameters
        ("capacity", {"prior", "decoder"}),
        ("holes", {"prior", "second_stage"}),
        ("kl-weight", {"prior", "second_stage"}),
    ],
)
def test_pairs_differ_in_what_is_asked_alone(name: str, parts: set[str]) -> None:
    question = QUESTIONS[name]
    for data in question.data:
        arms = question.experiments(data, "hour")
        for arm, against in question.contrasts(arms):
            one, other = arms[arm].to_dict(), arms[against].to_dict()
            assert {key for key, value in one.items() if value != other[key]} <= parts


def test_features_are_those_of_the_data(tmp_path: Path) -> None:
    bits = np.packbits(np.zeros((3, 784), dtype=np.uint8), axis=1)
    np.savez(tmp_path / "bits.npz", train=bits, valid=bits)
    np.save(tmp_path / "x.npy", np.zeros((20, 5), dtype=np.float32))
    few: list[DataSpec] = [Digits(), Pinwheel(3, 3, 3), Sprites(3, 3, 3), Sprites(3, 3, 3, side=28)]
    few += [StaticMNIST(tmp_path / "bits.npz"), Arrays(tmp_path / "x.npy", likelihood="bernoulli")]
    for data in few:
        assert data.features == data.load(0).features
    assert {type(base.data) for base in BASES.values()} <= {type(data) for data in few}


@pytest.mark.parametrize("name", ["prior-or-posterior", "capacity"])
def test_parameters_match(name: str) -> None:
    """Counted on the built pairs, within 3 %; in `capacity` of the arms that have a flow or stand for it."""
    for data in set(QUESTIONS[name].data) & {"digits", "pinwheel"}:
        arms = QUESTIONS[name].experiments(data, "hour")
        loaded = BASES[data].data.load(0)
        counts: dict[str, list[int]] = {}
        for arm, experiment in arms.items():
            if (name, arm) == ("capacity", "normal"):
                continue
            count = sum(p.numel() for part in experiment.build(loaded) for p in part.parameters())
            assert count == count_parameters(experiment)
            counts.setdefault(arm.partition("@")[2], []).append(count)
        for alike in counts.values():
            assert len(alike) > 1
            assert max(alike) / min(alike) < 1.03


def test_flow_prior_and_flow_decoder_of_capacity_are_one_family() -> None:
    for data in QUESTIONS["capacity"].data:
        arms = QUESTIONS["capacity"].experiments(data, "hour")
        inside, prior = arms["in-decoder"], arms["prior-flow"]
        assert inside.decoder == FlowDecoder(prior.prior, prior.decoder)  # type: ignore[arg-type]


def test_every_kl_weight_has_every_kind_and_beta_1_is_the_question_of_holes() -> None:
    arms = QUESTIONS["kl-weight"].experiments("digits", "hour")
    weights = {float(arm.partition("@")[2]): experiment.inference.kl_weight for arm, experiment in arms.items()}
    assert all(named == set_to for named, set_to in weights.items())
    assert len(arms) == 3 * len(weights) == 15
    holes = QUESTIONS["holes"].experiments("digits", "hour")
    same = {"normal@1": "normal", "two-stage@1": "flow-two-stage", "joint@1": "flow-joint"}
    assert all(cell_name(arms[one]) == cell_name(holes[other]) for one, other in same.items())


def test_contrasts_stay_at_their_level() -> None:
    question = Question("q", "Q?", lambda base: {}, baseline="a", pairs=(("b", "c"),))
    arms = dict.fromkeys(("a", "b", "c"), Experiment())
    assert question.contrasts(arms) == [("b", "a"), ("c", "a"), ("b", "c")]
    arms = dict.fromkeys((f"{arm}@{level}" for level in (1, 2) for arm in "abc"), Experiment())
    assert question.contrasts(arms) == [
        *(("b@1", "a@1"), ("c@1", "a@1"), ("b@2", "a@2"), ("c@2", "a@2")),
        *(("b@1", "c@1"), ("b@2", "c@2")),
    ]


def test_an_answer_leaves_tables_words_and_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.rand(60, 5, generator=torch.Generator().manual_seed(0)).round()
    file = tmp_path / "x.npy"
    np.save(file, rows.numpy())
    base = Experiment(
        latent=2,
        encoder=MLP((8,)),
        decoder=MLP((8,)),
        inference=Training(epochs=50, device="cpu"),
        data=Arrays(file, likelihood="bernoulli"),
    )
    monkeypatch.setitem(BASES, "coins", base)
    effort = PRESETS["seconds"].effort
    monkeypatch.setitem(PRESETS, "tiny", replace(PRESETS["seconds"], seeds=3))
    question = Question(
        "coins",
        "Does a mixture help with coins?\n\nWhat theory predicts: nothing.",
        lambda base: {"normal": base, "mixture": replace(base, prior=Mixture(2))},
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
    assert protocol["identity"] == base.data.load(0).identity.as_dict()
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
    assert Preset(seeds=2, epochs=999, draws=20).label(50) == "2-seeds-50-epochs-20-draws"  # as many as there can be
    assert mine.grid.table.equals(result.grid.table)  # the same cells
    with pytest.raises(FlowvaeError, match=r"Preset\.seeds = 0"):
        Preset(seeds=0, epochs=2, draws=20)
    with pytest.raises(FlowvaeError, match="is not asked on 'digits'"):
        answer(question, "digits", "tiny", tmp_path)
    with pytest.raises(FlowvaeError, match="did you mean minutes"):
        answer(question, "coins", "minute", tmp_path)


def test_a_data_file_that_is_not_there_is_missed_before_the_first_cell(tmp_path: Path) -> None:
    question = QUESTIONS["prior-or-posterior"]
    with pytest.raises(FlowvaeError, match=r"bits\.npz.*no such file"):
        answer(question, "static-mnist", "minutes", tmp_path / "out", path=tmp_path / "bits.npz")
    assert not (tmp_path / "out").exists()
    arms = question.experiments("static-mnist", "minutes", tmp_path / "bits.npz")
    assert {experiment.data for experiment in arms.values()} == {StaticMNIST(tmp_path / "bits.npz")}
    with pytest.raises(FlowvaeError, match="digits is not read from a file"):
        question.experiments("digits", "minutes", tmp_path / "bits.npz")


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
    monkeypatch.setattr(module, "load", lambda _: None)
    monkeypatch.setattr(module, "_write_samples", lambda *_: None)
    base = replace(BASES["digits"], latent=2)
    arms = {arm: replace(base, seed=number) for number, arm in enumerate(cells)}
    question = Question("q", "Q?", lambda _: arms, baseline="a", pairs=(("b", "c"),))
    found = answer(question, "digits", Preset(seeds=4, epochs=2, draws=20), tmp_path, progress=False)
    assert [*zip(found.differences["nll"]["arm"], found.differences["nll"]["against"], strict=True)] == [
        ("c", "a"),
        ("b", "c"),
    ]
    assert found.sentences[-1].startswith("nll by draws of the guide is not to be trusted")
    assert " for b: " in found.sentences[-1]


@pytest.mark.parametrize("data", BASES)
def test_the_cluster_preset_trains_longer(data: str) -> None:
    base = BASES[data].inference
    question = Question("q", "Q?", lambda base: {"a": base}, baseline="a", data=(data,))
    hour, cluster = (question.experiments(data, preset)["a"].inference for preset in ("hour", "cluster"))
    assert hour == base
    assert (cluster.epochs, cluster.patience) == (min(5 * base.epochs, 2000), 5 * base.patience)
    assert replace(cluster, epochs=base.epochs, patience=base.patience) == base


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
        lambda base: {"normal": base, "mixture": replace(base, prior=Mixture(2))},
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


def test_presets_that_decide_nothing_have_too_few_seeds_for_a_test() -> None:
    assert max(PRESETS[name].seeds for name in ("seconds", "minutes")) < LEAST_SEEDS
    assert min(PRESETS[name].seeds for name in ("hour", "cluster")) >= LEAST_SEEDS
    work = [(p.effort.rows, p.effort.refinement, p.effort.tempering.temperatures) for p in PRESETS.values()]
    assert work == sorted(work)


def test_presets_of_any_length_are_kept_to() -> None:
    for epochs in range(1, 401):
        arms = QUESTIONS["posterior-flows"].experiments("digits", Preset(seeds=2, epochs=epochs, draws=1))
        assert {arm.inference.epochs for arm in arms.values()} == {epochs}
