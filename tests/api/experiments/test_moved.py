"""Runs whose data have moved, that are opened on another device, or that lie on a file system without locks."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flowvae import Arrays, Experiment, FlowvaeError, Mixture, Training, load
from flowvae.cli.command import main
from flowvae.core.errors import DamagedError
from flowvae.experiments.directory import writing
from flowvae.experiments.stages import SecondStage
from flowvae.experiments.train import fit_prior
from flowvae.inference import checkpoint_digest
from flowvae.models import BernoulliLikelihood
from flowvae.networks import MLP

HOW = {"draws": 5, "figures": False, "progress": False}
QUICK = Training(epochs=1, device="cpu")
FILES = ("experiment.yaml", "checkpoint.safetensors", "history.csv", "metrics.json")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "mine.npz"
    np.savez(file, train=np.random.default_rng(0).integers(0, 2, (60, 5)))
    return file


@pytest.fixture(scope="module")
def stages(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two stages."""
    stage = SecondStage(Mixture(components=2), QUICK)
    parts = {
        "encoder": MLP((4,)),
        "decoder": MLP((4,)),
        "inference": QUICK,
        "data": Arrays(data, BernoulliLikelihood()),
    }
    experiment = Experiment(latent=2, second_stage=stage, **parts)  # type: ignore[arg-type]
    return experiment.run(tmp_path_factory.mktemp("run") / "run", **HOW).directory  # type: ignore[arg-type]


@pytest.fixture
def run(stages: Path, data: Path, tmp_path: Path) -> Path:
    """A copy of it, as on another machine: its data have moved, and its experiment.yaml has been corrected."""
    shutil.copytree(stages, tmp_path / "run")
    shutil.copy(data, tmp_path / "moved.npz")
    edit(tmp_path / "run", str(data), str(tmp_path / "moved.npz"))
    return tmp_path / "run"


def edit(directory: Path, old: str, new: str) -> None:
    file = directory / "experiment.yaml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_a_run_of_two_stages_goes_on_where_its_data_have_moved(run: Path, tmp_path: Path) -> None:
    edit(run, "device: cpu", "device: auto")
    before = checkpoint_digest(run / "first-stage/checkpoint.safetensors")
    for name in ("checkpoint.safetensors", "history.csv", "metrics.json"):
        (run / name).unlink()
    Experiment.from_yaml(run / "experiment.yaml").run(run, resume=True, **HOW)  # type: ignore[arg-type]
    assert checkpoint_digest(run / "first-stage/checkpoint.safetensors") == before  # not trained again
    for place in (run, run / "first-stage"):
        found = load(place).experiment
        assert found.data == Arrays(tmp_path / "moved.npz", BernoulliLikelihood())
        assert found.inference.device == "auto"


def test_a_run_goes_on_with_the_place_of_its_data_as_a_word(run: Path, tmp_path: Path) -> None:
    (run / "metrics.json").unlink()
    (tmp_path / "moved.npz").rename(tmp_path / "again.npz")
    with pytest.raises(FlowvaeError, match=rf"data\.path in {run}"):
        Experiment.from_yaml(run / "experiment.yaml").run(run, resume=True, **HOW)  # type: ignore[arg-type]
    assert main(["train", "--out", str(run), "--resume", "--data.path", str(tmp_path / "again.npz")]) == 0
    assert load(run).experiment.data == Arrays(tmp_path / "again.npz", BernoulliLikelihood())


@pytest.mark.parametrize("absolute", [True, False], ids=["as stored", "edited to a relative path"])
def test_data_at_a_relative_path_are_found_from_another_working_directory(
    absolute: bool, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(data, tmp_path / "mine.npz")
    monkeypatch.chdir(tmp_path)
    parts = {"encoder": MLP((4,)), "decoder": MLP((4,)), "inference": QUICK}
    experiment = Experiment(latent=2, data=Arrays("mine.npz", "bernoulli"), **parts)  # type: ignore[arg-type]
    experiment.run("run", **HOW)  # type: ignore[arg-type]
    assert experiment.data == Arrays("mine.npz", "bernoulli")  # type: ignore[arg-type]  # as it was
    assert len(load("run").data.train) == 42
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (tmp_path / "run/metrics.json").unlink()
    if absolute:
        assert load("../run").data.train.shape == (42, 5)
        assert main(["train", "--resume", "--out", "../run", "--inference.epochs", "2"]) == 0
        assert len(load("../run").history) == 2
        return
    edit(tmp_path / "run", f"path: {tmp_path / 'mine.npz'}", "path: mine.npz")
    for needs_data in (lambda: load("../run").data, lambda: experiment.run("../run", resume=True, **HOW)):  # type: ignore[arg-type]
        with pytest.raises(FlowvaeError) as info:
            needs_data()
        assert all(part in str(info.value) for part in (str(Path.cwd()), "mine.npz'", "data.path", "experiment.yaml"))


def test_what_differs_from_the_run_to_go_on_with_is_named(run: Path) -> None:
    experiment = replace(Experiment.from_yaml(run / "experiment.yaml"), latent=3)
    with pytest.raises(FlowvaeError, match="latent"):
        experiment.run(run, resume=True, **HOW)  # type: ignore[arg-type]


def test_a_prior_is_fitted_to_a_run_of_a_device_that_is_not_here(run: Path, tmp_path: Path) -> None:
    first = run / "first-stage"
    edit(first, "device: cpu", "device: cuda:63")
    stage = SecondStage(Mixture(components=2), QUICK)
    with pytest.warns(UserWarning, match="cuda:63"):
        found = fit_prior(first, stage, tmp_path / "fitted", **HOW)  # type: ignore[arg-type]
    assert load(found.directory).experiment.inference.device == "cpu"
    assert "cuda:63" in (first / "experiment.yaml").read_text()  # not touched


def test_a_run_without_settings_says_what_to_do(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--config", str(run / "first-stage/experiment.yaml"), "--draws", "5"]
    (run / "experiment.yaml").unlink()
    for command in (["evaluate", str(run)], ["train", "--out", str(run), "--resume"]):
        assert main(command) == 2
        assert "--overwrite" in capsys.readouterr().err
    assert main(["train", "--out", str(run), *words]) == 2
    said = capsys.readouterr().err
    assert "--overwrite" in said
    assert "--resume" not in said
    assert main(["train", "--out", str(run), "--overwrite", *words]) == 0


def test_what_cannot_be_overwritten_is_not_said_to_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.tex").touch()
    assert main(["train", "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "exists" in said
    assert "--" not in said


@pytest.mark.parametrize("name", FILES)
def test_a_link_in_place_of_a_file_is_refused_before_a_measure_is_taken(
    run: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = load(run)
    (run / name).rename(tmp_path / "elsewhere")
    (run / name).symlink_to(tmp_path / "elsewhere")
    monkeypatch.setattr("flowvae.experiments.run.MEASURES", {})  # a KeyError where the work begins
    monkeypatch.setattr("flowvae.experiments.run.check_measures", lambda *_: None)
    with pytest.raises(DamagedError, match=name):
        opened.evaluate(measures=("likelihood",), progress=False)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_used_with_a_warning(
    run: Path, tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    fcntl = pytest.importorskip("fcntl")
    monkeypatch.setattr(fcntl, "flock", without)
    for place in (run, tmp_path / "new"):  # with a lock file of another file system, and without
        for _ in range(2):  # nothing is left that would hold it
            with pytest.warns(UserWarning, match="locks"), writing(place):
                pass


def test_a_message_with_the_name_of_a_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "two\nlines\x1b[31m"
    place.mkdir()
    (place / "thesis.tex").touch()
    assert main(["train", "--out", str(place)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "\x1b" not in line
