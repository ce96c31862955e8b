"""The study of students: its table, its figure, and that it goes on where it was stopped."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal, kl_divergence
from zuko.lazy import LazyDistribution

from flowvae import MLP, Experiment, Training
from flowvae.comparisons.engine import bases
from flowvae.comparisons.studies import distillation
from flowvae.flows import MAF, CouplingNSF


class _Gaussian(LazyDistribution):
    def __init__(self, loc: float, scale: float) -> None:
        super().__init__()
        self.q = Independent(Normal(torch.full((3,), loc), torch.full((3,), scale)), 1)

    def forward(self, c: Any = None) -> Independent:
        return self.q


def run(loc: float, scale: float) -> Any:
    model = nn.Module()
    model.prior = _Gaussian(loc, scale)
    return SimpleNamespace(pair=SimpleNamespace(model=model))


def test_the_divergences_of_gaussians_are_those_in_closed_form() -> None:
    one, other = run(0.0, 1.0), run(0.5, 1.5)
    found = distillation.divergences(one, other, draws=40_000)
    s, t = one.pair.model.prior.q, other.pair.model.prior.q
    for name, expected in (("reverse_kl", kl_divergence(s, t)), ("forward_kl", kl_divergence(t, s))):
        assert abs(found[name] - expected) < 5 * found[f"{name}_se"]
        assert 0 < found[f"{name}_se"] < 0.05


def test_it_writes_a_table_and_a_figure_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = Experiment(encoder=MLP((8,)), decoder=MLP((8,)), inference=Training(epochs=2, batch_size=500, device="cpu"))
    monkeypatch.setitem(bases.BASES, "digits", base)
    monkeypatch.setattr(distillation, "TEACHER", MAF(1, (8,)))
    monkeypatch.setattr(distillation, "STUDENTS", {"coupling-nsf": (CouplingNSF(2, (8,)), ("reverse", "forward"))})
    words = ["--out", str(tmp_path), "--latent", "2", "3", "--epochs", "1", "--student-steps", "5"]
    assert distillation.main(words) == 0
    rows = json.loads((tmp_path / "distillation.json").read_text())
    assert [(row["latent"], row["direction"]) for row in rows] == [
        (2, "reverse"),
        (2, "forward"),
        (3, "reverse"),
        (3, "forward"),
    ]
    assert set(distillation.COLUMNS) <= set(rows[0])
    assert (tmp_path / "distillation.png").stat().st_size > 10_000
    checkpoints = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("checkpoint.safetensors")}
    assert len(checkpoints) == 2 + 2 * 4  # teachers, and students with their first stages
    assert distillation.main(words) == 0
    again = json.loads((tmp_path / "distillation.json").read_text())
    assert [row["nll"] for row in again] == [row["nll"] for row in rows]
