"""The benchmarks run, and what they say that theory predicts is what torch counts."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pyro
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The benchmarks are scripts, which find each other by their folder; Pyro's recipe leaves its parameters."""
    monkeypatch.syspath_prepend(FOLDER)
    yield
    pyro.clear_param_store()


@pytest.fixture
def growth() -> ModuleType:
    return importlib.import_module("growth")


@pytest.fixture
def training() -> ModuleType:
    return importlib.import_module("training_step")


def test_training_steps_compute_the_same_loss(training: ModuleType) -> None:
    result = training.case("digits-32/maf/gaussian", 3, inductor=False)
    losses = {arm: row["last_loss"] for arm, row in result["arms"].items()}
    assert losses.keys() == {"by hand", "recipe", "jit", "fit", "capture"}
    # the JIT has drawn random numbers of its own, and the recipe does not clip
    assert losses["fit"] == pytest.approx(losses["by hand"], rel=1e-5)
    assert losses["capture"] == pytest.approx(losses["by hand"], rel=1e-5)
    assert all(arm in training.table(result) for arm in losses)


def test_growth_runs(tmp_path: Path) -> None:
    command = [sys.executable, str(FOLDER / "growth.py"), "--quick", "--out", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert not done.returncode, done.stderr
    found = json.loads((tmp_path / "growth.json").read_text())
    assert {curve["mode"] for curve in found["curves"]} == {"capture", "none"}
    assert all(row["median_ms"] > 0 for curve in found["curves"] for row in curve["rows"])
    assert "theory" in (tmp_path / "growth.txt").read_text()
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")


def test_the_parts_of_a_step_are_the_step() -> None:
    profile_step = importlib.import_module("profile_step")
    found = profile_step.profile("digits-32/maf/gaussian", 3)
    assert "program" in profile_step.table("digits-32/maf/gaussian", found, 3, {})
    for arm, parts in found.items():
        whole = parts.pop("step")
        assert sum(parts.values()) == pytest.approx(whole)
        assert min(parts.values()) >= 0
        assert (parts["program"] > 0) == (arm == "capture")
        assert (parts["backward"] > 0) == (arm != "capture")


@pytest.mark.parametrize("prior", ["maf", "nsf"])
@pytest.mark.parametrize(
    ("task", "setting"),
    [
        ("step", {"latent": 5}),
        ("step", {"batch": 7}),
        ("step", {"transforms": 1}),
        ("step", {"particles": 3}),
        ("draw", {"latent": 5, "batch": 7}),
        ("bound", {"particles": 260, "batch": 64}),
    ],
    ids=str,
)
def test_multiplications_are_those_that_torch_counts(
    growth: ModuleType, prior: str, task: str, setting: dict[str, int]
) -> None:
    point = growth.Point(task, prior, "none", **{"batch": 16, **setting})
    run = growth.job(point)
    with FlopCounterMode(display=False) as counter:
        run()
    assert counter.get_total_flops() == 2 * growth.multiplications(point)  # and as many additions


def test_normflows_builds_the_same_matrices(training: ModuleType) -> None:
    pytest.importorskip("normflows")
    peers = importlib.import_module("peers")
    size = training.SIZES["digits-32"]
    for prior in ("maf-64", "nsf-64"):
        spec = training.PRIORS[prior]
        bins = getattr(spec, "bins", None)
        model, guide = training.build(size, prior, "gaussian")
        ours = sorted(tuple(p.shape) for p in (*model.parameters(), *guide.parameters()))
        parameters, loss = peers.normflows(model, guide, spec, bins, training.log_likelihood(size))
        assert sorted(tuple(p.shape) for p in parameters) == ours
        assert torch.isfinite(loss(training.batches(size)[0]))


@pytest.mark.parametrize("guide", ["gaussian", "static"])
def test_pythae_builds_the_same_matrices(training: ModuleType, guide: str) -> None:
    pytest.importorskip("pythae")
    peers = importlib.import_module("peers")
    size = training.SIZES["bits-128"]
    model, own = training.build(size, "normal", guide)
    ours = sorted(tuple(p.shape) for p in (*model.parameters(), *own.parameters()))
    parameters, loss = peers.pythae(model, own, size["data"], training.STATIC if guide == "static" else None)
    assert sorted(tuple(p.shape) for p in parameters) == ours
    assert torch.isfinite(loss(training.batches(size)[0]))
