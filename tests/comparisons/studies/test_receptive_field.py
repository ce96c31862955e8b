"""The study of the receptive field: its arms, its rows, and that it goes on where it stopped."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from flowvae import MLP, Arrays, Experiment
from flowvae.comparisons.engine.bases import base_on
from flowvae.comparisons.studies import receptive_field
from flowvae.comparisons.studies.receptive_field import CONTROL, arms_of, main, plot_rates
from flowvae.core.errors import FlowvaeError
from flowvae.data import Pinwheel


def test_arms_differ_in_the_field_alone() -> None:
    base = base_on("digits")
    data = base.data.load(0)
    arms = arms_of(base, data, (0, 1, 4), layers=3, channels=8)
    assert list(arms) == [CONTROL, "r = 0", "r = 1", "r = 4"]
    assert arms[CONTROL].data == base.data
    likelihoods = [arm.data.likelihood for name, arm in arms.items() if name != CONTROL]  # type: ignore[attr-defined]
    assert [likelihood.radius for likelihood in likelihoods] == [0, 1, 4]
    assert len({replace(likelihood, field=None) for likelihood in likelihoods}) == 1
    assert len({(arm.prior, arm.decoder, arm.encoder, arm.inference) for arm in arms.values()}) == 1
    other = replace(base, data=Pinwheel(50, 10, 10))
    with pytest.raises(FlowvaeError, match=r"pinwheel.*\(16,\)"):
        arms_of(other, other.data.load(0), (0,))
    with pytest.raises(FlowvaeError, match=r"field = 5.*layers = 3"):
        arms_of(base, data, (5,), layers=3, channels=8)


def test_the_command_writes_its_files_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = np.random.default_rng(0).integers(0, 4, (60, 1, 4, 4))
    np.savez(tmp_path / "x.npz", train=x[:40], valid=x[40:50], test=x[50:])
    tiny = Experiment(encoder=MLP((4,)), decoder=MLP((4,)), data=Arrays(tmp_path / "x.npz", likelihood="binomial:3"))
    monkeypatch.setattr(receptive_field, "base_on", lambda *_: tiny)
    words = ["--out", str(tmp_path), "--epochs", "1", "--layers", "1", "--channels", "2"]
    assert main([*words, "--fields", "0", "--seeds", "1"]) == 0
    stamp = (tmp_path / "runs" / "r-0-seed-0" / "checkpoint.safetensors").stat().st_mtime_ns
    first = pd.read_csv(tmp_path / "receptive_field.csv")
    assert main([*words, "--fields", "0", "3", "--seeds", "1"]) == 0
    assert (tmp_path / "runs" / "r-0-seed-0" / "checkpoint.safetensors").stat().st_mtime_ns == stamp
    table = pd.read_csv(tmp_path / "receptive_field.csv")
    assert list(table["arm"]) == [CONTROL, "r = 0", "r = 3"]
    pd.testing.assert_frame_equal(table[:2], first)
    assert list(table["pixels"]) == [0, 0, 18]
    assert (table["information_bits"] <= table["most_information_bits"]).all()
    np.testing.assert_allclose(table["elbo_nats"], table["reconstruction_nats"] - np.log(2) * table["kl_bits"])
    rows = json.loads((tmp_path / "receptive_field.json").read_text())
    assert [row["arm"] for row in rows] == list(table["arm"])
    assert (tmp_path / "receptive_field.png").stat().st_size > 0
    assert "kl_bits" in capsys.readouterr().out
    figure = plot_rates(table, "tiny")
    points = figure.axes[0].collections[0].get_offsets()
    np.testing.assert_allclose(points, table.loc[1:, ["radius", "kl_bits"]])
