"""The benchmark of mixed precision runs, and float32 is nearer to float64 than bfloat16 is."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from flowvae import Digits

FOLDER = Path(__file__).parents[2] / "benchmarks"


def test_a_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    benchmark = importlib.import_module("mixed_precision")
    found = benchmark.case("digits", Digits().load(0), epochs=1, seeds=2, rows=600, steps=2)
    for weights in ("initial", "trained"):
        for kind in ("loss", "gradient"):
            assert found[weights]["float32"][kind] < 0.1 * found[weights]["bfloat16"][kind]
    assert all(elbo < 0 for elbos in found["elbo"].values() for elbo in elbos)
    assert found["elbo"]["float32"] != found["elbo"]["bfloat16"]
    assert len(found["ms"]) == 4
    assert "2 seeds" in benchmark.table("digits", found)
