"""A training that is extended ends where one of that length ends, and nothing else may change."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flowvae import Arrays, Experiment, FlowvaeError, Mixture, SecondStage, Training, fit_prior, load, train
from flowvae.cli.command import main
from flowvae.core.errors import UnfinishedRunWarning
from flowvae.experiments import places
from flowvae.experiments.directory import delete_run
from flowvae.experiments.experiment import changed_settings
from flowvae.experiments.places import prepare_place
from flowvae.experiments.run import Run
from flowvae.inference import load_checkpoint, save_checkpoint
from flowvae.models import BernoulliLikelihood, StandardNormal
from flowvae.networks import MLP

HOW: dict[str, Any] = {"draws": 5, "figures": False, "progress": False}
QUICK = Training(epochs=2, batch_size=16, device="cpu", checkpoint_seconds=0.0)
LONGER = replace(QUICK, epochs=4)
FILES = ("checkpoint.safetensors", "history.csv", "metrics.json", "experiment.yaml")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "mine.npz"
    np.savez(file, train=np.random.default_rng(0).integers(0, 2, (60, 5)))
    return file


@pytest.fixture(scope="module")
def one(file: Path) -> Experiment:
    data = Arrays(file, BernoulliLikelihood())
    return Experiment(latent=2, encoder=MLP((4,)), decoder=MLP((4,)), inference=QUICK, data=data)


@pytest.fixture(scope="module")
def short(one: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(one, tmp_path_factory.mktemp("short") / "run", **HOW).directory or Path()


@pytest.fixture(scope="module")
def long(one: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(replace(one, inference=LONGER), tmp_path_factory.mktemp("long") / "run", **HOW)


@pytest.fixture
def run(short: Path, tmp_path: Path) -> Path:
    """A copy of the finished run of two epochs."""
    shutil.copytree(short, tmp_path / "run")
    return tmp_path / "run"


def same(found: Run, expected: Run) -> bool:
    """Whether two runs agree in every weight, epoch and measure, on disk and in memory."""
    for run in (found, load(found.directory or "")):
        assert run.metrics == expected.metrics
        timeless = [history.drop(columns="seconds") for history in (run.history, expected.history)]
        assert timeless[0].equals(timeless[1])
    tensors = [load_checkpoint((run.directory or Path()) / "checkpoint.safetensors")[0] for run in (found, expected)]
    assert tensors[0].keys() == tensors[1].keys()
    return all(torch.equal(value, tensors[1][name]) for name, value in tensors[0].items())


def test_more_epochs_end_where_one_training_of_that_length_ends(run: Path, one: Experiment, long: Run) -> None:
    load(run).evaluate(measures=["activity"], progress=False)
    found = train(replace(one, inference=LONGER), run, resume=True, **HOW)
    assert same(found, long)
    assert set(load(run).measured) == {"likelihood"}  # no measure of the older weights
    assert load(run).experiment.inference.epochs == 4


def test_an_interrupted_training_is_extended_too(run: Path, one: Experiment, long: Run) -> None:
    for name in ("history.csv", "metrics.json"):
        (run / name).unlink()
    assert same(train(replace(one, inference=LONGER), run, resume=True, **HOW), long)


def test_a_larger_patience_goes_on(one: Experiment, tmp_path: Path) -> None:
    # a step so large that validation soon gets worse
    wild = replace(QUICK, epochs=40, learning_rate=0.5, patience=1)
    patient = replace(wild, patience=4)
    expected = train(replace(one, inference=patient), tmp_path / "patient", **HOW)
    first = train(replace(one, inference=wild), tmp_path / "run", **HOW)
    assert len(first.history) < len(expected.history)
    assert same(train(replace(one, inference=patient), tmp_path / "run", resume=True, **HOW), expected)


def test_the_command_line_extends_a_run(run: Path, long: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowvae.experiments.train.draw_figures", lambda *_: None)  # they take seconds
    assert main(["train", "--resume", "--out", str(run), "--inference.epochs", "4"]) == 0
    assert same(load(run), long)
    before = {name: (run / name).read_bytes() for name in FILES}
    assert main(["train", "--resume", "--out", str(run)]) == 0  # nothing is left to do
    assert {name: (run / name).read_bytes() for name in FILES} == before


def test_the_last_stage_alone_is_extended(run: Path, one: Experiment, tmp_path: Path) -> None:
    stage = SecondStage(Mixture(2), QUICK)
    two = replace(one, second_stage=stage)
    longer = replace(two, second_stage=replace(stage, inference=LONGER))
    expected = train(longer, tmp_path / "expected", first_stage=run, **HOW)
    fitted = fit_prior(run, stage, tmp_path / "fitted", **HOW)
    first = (tmp_path / "fitted/first-stage/checkpoint.safetensors").read_bytes()
    with pytest.raises(FlowvaeError, match="inference"):
        train(replace(longer, inference=LONGER), tmp_path / "fitted", resume=True, **HOW)
    assert same(train(longer, tmp_path / "fitted", resume=True, **HOW), expected)
    assert (tmp_path / "fitted/first-stage/checkpoint.safetensors").read_bytes() == first
    assert len(load(fitted.directory or "").whole_history) == 2 + 4


def test_fine_tuning_shares_its_settings_with_the_fit_before_it(run: Path, one: Experiment, tmp_path: Path) -> None:
    stage = SecondStage(Mixture(2), QUICK, fine_tune=True)
    train(replace(one, second_stage=stage), tmp_path / "run3", first_stage=run, **HOW)
    longer = replace(one, second_stage=replace(stage, inference=LONGER))
    before = {name: (tmp_path / "run3" / name).read_bytes() for name in FILES}
    with pytest.raises(FlowvaeError, match=r"run3: .*second_stage"):
        train(longer, tmp_path / "run3", resume=True, **HOW)
    assert {name: (tmp_path / "run3" / name).read_bytes() for name in FILES} == before


def test_training_on_without_a_fit_is_extended(run: Path, one: Experiment, tmp_path: Path) -> None:
    stage = SecondStage(StandardNormal(), QUICK, fine_tune=True)
    longer = replace(one, second_stage=replace(stage, inference=LONGER))
    expected = train(longer, tmp_path / "expected", first_stage=run, **HOW)
    train(replace(one, second_stage=stage), tmp_path / "run2", first_stage=run, **HOW)
    assert same(train(longer, tmp_path / "run2", resume=True, **HOW), expected)


CHANGES: dict[str, tuple[Callable[[Experiment], Experiment], str]] = {
    "latent": (lambda one: replace(one, latent=3), "latent"),
    "seed": (lambda one: replace(one, seed=1, inference=LONGER), "seed"),
    "learning rate": (lambda one: replace(one, inference=replace(LONGER, learning_rate=0.1)), "inference"),
    "fewer epochs": (lambda one: replace(one, inference=replace(QUICK, epochs=1)), "epochs = 1"),
    "a second stage": (lambda one: replace(one, second_stage=SecondStage(Mixture(2), LONGER)), "second_stage"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_nothing_else_may_change_and_nothing_is_touched(run: Path, one: Experiment, name: str) -> None:
    change, named = CHANGES[name]
    before = {name: (run / name).read_bytes() for name in FILES}
    with pytest.raises(FlowvaeError, match=named) as info:
        train(change(one), run, resume=True, **HOW)
    assert str(run) in str(info.value)
    assert {name: (run / name).read_bytes() for name in FILES} == before


def test_other_data_extend_nothing(run: Path, one: Experiment, tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", train=np.random.default_rng(1).integers(0, 2, (60, 5)))
    before = {name: (run / name).read_bytes() for name in FILES}
    other = replace(one, inference=LONGER, data=Arrays(tmp_path / "other.npz", BernoulliLikelihood()))
    with pytest.raises(FlowvaeError, match=r"mine\.npz.*other\.npz"):
        train(other, run, resume=True, **HOW)
    assert {name: (run / name).read_bytes() for name in FILES} == before


def test_only_an_extension_may_have_other_epochs(one: Experiment) -> None:
    longer = replace(one, inference=replace(LONGER, patience=3))
    assert changed_settings(longer, one.to_dict()) == ["inference"]
    assert changed_settings(longer, one.to_dict(), extended=True) == []
    two = replace(one, second_stage=SecondStage(Mixture(2), QUICK))
    assert changed_settings(replace(two, inference=LONGER), two.to_dict(), extended=True) == ["inference"]


def test_a_run_that_is_being_extended_opens_with_its_older_weights(run: Path, short: Path, one: Experiment) -> None:
    prepare_place(replace(one, inference=LONGER), run, resume=True)  # and killed then
    with pytest.warns(UnfinishedRunWarning):
        found = load(run)
    assert found.experiment.inference.epochs == 4
    assert found.metrics == []
    for part, other in zip(found.pair, load(short).pair, strict=True):
        assert all(torch.equal(value, other.state_dict()[name]) for name, value in part.state_dict().items())


def test_a_run_of_an_earlier_version_is_refused(run: Path, one: Experiment) -> None:
    tensors, facts = load_checkpoint(run / "checkpoint.safetensors")
    del facts["settings"]["signature"], facts["sha256"]
    save_checkpoint(run / "checkpoint.safetensors", tensors, facts)
    for ask in (lambda: load(run), lambda: train(one, run, resume=True, **HOW)):
        with pytest.raises(FlowvaeError, match=f"{run}.*earlier version.*--overwrite"):
            ask()
    assert train(one, run, overwrite=True, **HOW).metrics


@pytest.mark.parametrize("after", ["is_empty", "foreign", "holds_run"])
def test_a_directory_that_another_process_deletes_meanwhile_is_taken(
    run: Path, one: Experiment, short: Path, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    asked: Callable[[Path], Any] = getattr(places, after)

    def changed(directory: Path) -> Any:
        monkeypatch.undo()
        answer = asked(directory)
        delete_run(directory)  # which leaves the lock of its process
        (directory / ".lock").touch()
        return answer

    monkeypatch.setattr(places, after, changed)
    assert same(train(one, run, overwrite=True, **HOW), load(short))
