"""An exported run is one file that another process opens without the data."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import HANGS

from flowvae import MAF, Arrays, Condition, Experiment, FlowvaeError, Mixture, SecondStage, Training, load, train
from flowvae.core.errors import DamagedError
from flowvae.experiments.export import export_run
from flowvae.experiments.run import Run
from flowvae.inference import load_checkpoint, save_checkpoint
from flowvae.networks import MLP

HOW: dict[str, Any] = {"draws": 5, "figures": False, "progress": False}
QUICK = Training(epochs=1, device="cpu")
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, 90)
X = RNG.normal(size=(90, 4)) + 1.7e9
NAMES = np.array(["cat", "dog", "emu"])[LABELS]

# what a process prints that has the run and no data
ASK = """
import json, sys
import numpy as np
from flowvae import load
x, c = np.load(sys.argv[1]), ["cat", "emu"]
for run in map(load, sys.argv[2:]):
    found = [run.encode(x, c), run.reconstruct(x, c), run.sample(2, "dog"), run.log_prob(x, c, 20), run.classify(x, 20)]
    print(json.dumps([part.tolist() for part in found]))
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    np.savez(folder / "mine.npz", train=X, labels=NAMES)
    experiment = Experiment(
        latent=2,
        encoder=MLP((8,)),
        decoder=MLP((8,)),
        inference=QUICK,
        data=Arrays(folder / "mine.npz", "gaussian"),  # type: ignore[arg-type]
        condition=Condition(),
        prior=Mixture(2),
        second_stage=SecondStage(MAF(1, (8,)), QUICK),
    )
    train(experiment, folder / "run", **HOW)
    return folder


@pytest.fixture
def away(trained: Path, tmp_path: Path) -> Path:
    """A folder with a copy of the run and its exported file, whose data are not there."""
    shutil.copytree(trained / "run", tmp_path / "run")
    yaml = tmp_path / "run" / "experiment.yaml"
    yaml.write_text(yaml.read_text().replace(str(trained), str(tmp_path / "gone")))
    assert export_run(tmp_path / "run", tmp_path / "run.safetensors") == tmp_path / "run.safetensors"
    np.save(tmp_path / "x.npy", X[:2])
    return tmp_path


def answers(run: Run) -> list[Any]:
    """What the run says of the same data in this process."""
    x, c = X[:2], ["cat", "emu"]
    found = [run.encode(x, c), run.reconstruct(x, c), run.sample(2, "dog"), run.log_prob(x, c, 20), run.classify(x, 20)]
    return [part.tolist() for part in found]


def test_another_process_needs_no_data(trained: Path, away: Path) -> None:
    asked = [sys.executable, "-c", ASK, *(str(away / name) for name in ("x.npy", "run", "run.safetensors"))]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=HANGS)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == [answers(load(trained / "run"))] * 2


def test_the_file_holds_everything_but_the_data(trained: Path, away: Path) -> None:
    run, found = load(trained / "run"), load(away / "run.safetensors")
    assert found.experiment.to_dict() | {"data": None} == run.experiment.to_dict() | {"data": None}
    assert found.signature == run.signature
    assert found.metrics == run.metrics
    assert found.metric("nll") == run.metric("nll")
    assert found.history.equals(run.history)
    assert found.whole_history.equals(run.whole_history)
    assert found.parameters == run.parameters
    assert found.directory is None
    found.export(away / "again.safetensors")
    assert answers(load(away / "again.safetensors")) == answers(run)


@pytest.mark.parametrize("name", ["run", "run.safetensors"])
def test_measures_say_that_they_need_the_data(away: Path, name: str) -> None:
    run = load(away / name)
    for ask in (lambda: run.data, lambda: run.evaluate(progress=False)):
        with pytest.raises(FlowvaeError, match="gone") as info:
            ask()
        assert str(away / "run") in str(info.value)
        assert "\n" not in str(info.value)


def test_measures_are_taken_where_the_data_are(trained: Path, tmp_path: Path) -> None:
    run = load(trained / "run")
    run.export(tmp_path / "here.safetensors")
    found = load(tmp_path / "here.safetensors")
    assert found.evaluate(draws=5, progress=False) == [metric for metric in run.metrics if metric.split == "test"]
    with pytest.raises(FlowvaeError, match=r"here\.safetensors"):
        found.evaluate(figures=True)
    moved = replace(found.experiment, data=Arrays(tmp_path / "mine.npz", "gaussian"))  # type: ignore[arg-type]
    np.savez(tmp_path / "mine.npz", train=X + 1, labels=NAMES)
    with pytest.raises(FlowvaeError, match="was trained on"):
        replace(found, experiment=moved, known_data=None).evaluate(progress=False)


def test_damage_is_seen(away: Path) -> None:
    file = away / "run.safetensors"
    whole = bytearray(file.read_bytes())
    for place in (len(whole) - 3, len(whole) // 2, 300):
        changed = bytearray(whole)
        changed[place] ^= 1
        file.write_bytes(changed)
        with pytest.raises(DamagedError, match=str(file)):
            load(file)
    file.write_bytes(whole[:-10])
    with pytest.raises(DamagedError, match=str(file)):
        load(file)


def test_other_files_are_not_taken_for_a_run(away: Path) -> None:
    (away / "notes.txt").write_text("mine")
    for name in ("run/checkpoint.safetensors", "notes.txt", "missing.safetensors"):
        with pytest.raises(FlowvaeError, match=str(away / name)):
            load(away / name)
    tensors, facts = load_checkpoint(away / "run.safetensors")
    del facts["exported"]["signature"]["frequencies"], facts["sha256"]
    save_checkpoint(away / "old.safetensors", tensors, facts)
    with pytest.raises(FlowvaeError, match="earlier version"):
        load(away / "old.safetensors")


def test_a_folder_with_an_exported_file_names_it(away: Path, tmp_path: Path) -> None:
    shutil.copyfile(away / "run.safetensors", tmp_path / "model.safetensors")
    with pytest.raises(FlowvaeError, match=r"model\.safetensors"):
        load(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "checkpoint.safetensors")
    with pytest.raises(FlowvaeError, match=r"experiment\.yaml"):
        load(tmp_path)


def test_what_cannot_be_exported_is_refused(away: Path, tmp_path: Path) -> None:
    run = load(away / "run")
    for name, named in (("run.pt", ".safetensors"), ("nowhere/run.safetensors", "nowhere")):
        with pytest.raises(FlowvaeError, match=named):
            run.export(tmp_path / name)
    (away / "run" / "history.csv").unlink()
    (away / "run" / "metrics.json").unlink()
    with pytest.warns(UserWarning, match="not ended"), pytest.raises(FlowvaeError, match="--resume"):
        export_run(away / "run", tmp_path / "new.safetensors")
    assert not (tmp_path / "new.safetensors").exists()


def test_only_an_earlier_export_is_replaced(away: Path, tmp_path: Path) -> None:
    run = load(away / "run")
    (tmp_path / "notes.safetensors").write_text("mine")
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "elsewhere.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    others = [tmp_path / f"{name}.safetensors" for name in ("notes", "link", "folder")]
    for file in (away / "run" / "checkpoint.safetensors", *others):
        with pytest.raises(FlowvaeError, match=str(file)):
            run.export(file)
    assert (tmp_path / "notes.safetensors").read_text() == "mine"
    assert load(away / "run").metrics == run.metrics
    run.export(away / "run.safetensors")
    assert answers(load(away / "run.safetensors")) == answers(run)


def test_an_exported_run_in_place_of_a_checkpoint_is_named(away: Path) -> None:
    shutil.copyfile(away / "run.safetensors", away / "run" / "checkpoint.safetensors")
    with pytest.raises(FlowvaeError, match=str(away / "run")):
        load(away / "run")


def test_a_run_in_another_type_says_what_to_do(away: Path, float64: None) -> None:
    for name in ("run", "run.safetensors"):
        with pytest.raises(FlowvaeError, match=r"float32.*float64.*set_default_dtype"):
            load(away / name)


def test_a_run_without_a_directory_is_exported(trained: Path, tmp_path: Path) -> None:
    experiment = replace(load(trained / "run").experiment, second_stage=SecondStage(Mixture(2), QUICK))
    run = train(experiment, progress=False)
    run.export(tmp_path / "run.safetensors")
    found = load(tmp_path / "run.safetensors")
    assert answers(found) == answers(run)
    assert found.metrics == []
    assert found.whole_history.equals(run.whole_history)
    assert all(
        torch.equal(a, b) for a, b in zip(run.pair.model.parameters(), found.pair.model.parameters(), strict=True)
    )
