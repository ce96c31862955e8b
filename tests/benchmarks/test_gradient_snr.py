"""The benchmark of gradients: its ratio on known samples, and the results of Rainforth et al. and Tucker et al."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("gradient_snr")


def test_the_ratio_of_known_samples(benchmark: ModuleType) -> None:
    mean = torch.tensor([0.3, 0.0, 0.4])  # of norm 0.5; noise of variance 3 · 4
    one, other = (mean + 2 * torch.randn(4000, 3) for _ in range(2))
    found = benchmark.row(one, other)
    assert found["snr"] == pytest.approx(0.5 / 12**0.5, abs=4 * found["log_error"] * found["snr"])
    assert 0.01 < found["log_error"] < 0.2
    assert benchmark.row(one, one - one.mean(0))["snr"] is None


def test_draws_drown_the_encoders_signal_unless_it_is_doubly_reparametrized(benchmark: ModuleType) -> None:
    model, guide, x = benchmark.linear(0)
    rows = []
    for draws in (1, 64):
        found = {}
        for name, make in benchmark.ESTIMATORS.items():
            elbo = make(num_particles=draws, vectorize_particles=True, max_plate_nesting=1, compile="capture")
            found[name] = benchmark.gradients(elbo, model, guide, x[:8], 40)
        for name, parts in found.items():
            for part, samples in parts.items():
                snr = benchmark.row(samples, found["dreg"][part])["snr"]
                rows.append({"objective": name, "part": part, "draws": draws, "snr": snr})
    slopes = {
        (name, part): benchmark.slope([one for one in rows if (one["objective"], one["part"]) == (name, part)])
        for name in benchmark.ESTIMATORS
        for part in benchmark.PARTS
    }
    assert slopes["iwae", "encoder"] < -0.35
    assert min(slopes["dreg", "encoder"], slopes["iwae", "decoder"], slopes["dreg", "decoder"]) > 0.1
