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
JAX = os.environ.get("FLOWVAE_JAX", sys.executable)  # an interpreter that has the libraries of the extra jax


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
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    result = training.case("digits-32/maf/gaussian", 3, inductor=False, block=1)
    assert cores is None or os.sched_getaffinity(0) == cores  # bound to one of them meanwhile
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


@pytest.mark.parametrize("case", ["digits-32/maf-64", "digits-32/nsf-64", "mnist-100/normal"])
def test_jax_computes_the_same_loss(training: ModuleType, case: str) -> None:
    jax_peer = importlib.import_module("jax_peer")
    if not jax_peer.versions(JAX):
        pytest.skip("needs the extra jax")
    name, prior = case.split("/")
    size, spec = training.SIZES[name], training.PRIORS[prior]
    model, guide = training.build(size, prior, "gaussian")
    data = training.batches(size)[:3]
    noise = torch.randn(size["batch"], size["latent"], generator=torch.Generator().manual_seed(0))
    features = guide.encoder(data[0])
    z = guide.head.loc(features) + guide.head.log_scale(features).exp() * noise
    log_q = guide.head(features).log_prob(z)
    expected = log_q - model.likelihood(model.decoder(z)).log_prob(data[0]) - model.prior().log_prob(z)
    flow = None if prior == "normal" else spec
    with jax_peer.JaxWorker(size, flow, model, guide, data, 2, JAX) as worker:
        assert worker.loss(data[0], noise) == pytest.approx(expected.mean().item(), rel=1e-5)
        ours = sum(p.numel() for p in (*model.parameters(), *guide.parameters()))
        # a spline of flowjax's learns its outer slopes: two numbers more a dimension, from 64 hidden units and a bias
        extra = 3 * 2 * size["latent"] * 65 if prior == "nsf-64" else 0
        assert worker.parameters == ours + extra


def test_jax_scan_takes_the_same_steps(training: ModuleType) -> None:
    jax_peer = importlib.import_module("jax_peer")
    if not jax_peer.versions(JAX):
        pytest.skip("needs the extra jax")
    size, block, steps = training.SIZES["digits-32"], 2, 6
    model, guide = training.build(size, "normal", "gaussian")
    data = training.batches(size)[:3]
    with jax_peer.JaxWorker(size, None, model, guide, data, block, JAX) as worker:
        losses = {}
        for arm in worker.arms():
            assert arm.block(steps) > 0
            losses[arm.name] = arm.loss
    assert losses["jax scan"] == pytest.approx(losses["jax"], rel=1e-5)
    assert losses["numpyro scan"] == pytest.approx(losses["numpyro"], rel=1e-5)
    assert losses["numpyro"] == pytest.approx(losses["jax"], rel=0.01)  # other noise
