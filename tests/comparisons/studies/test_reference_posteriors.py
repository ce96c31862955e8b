"""The comparison with reference posteriors, on a posterior whose truth is simulated here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pytest
import torch

from flowvae.comparisons.studies import reference_posteriors
from flowvae.comparisons.studies.reference_posteriors import GUIDES, fit_reference, main, measure_guide, summary
from flowvae.core.errors import FlowvaeError
from flowvae.data import load_reference
from flowvae.inference import GuideSettings

NAME = "sblrc-blr"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A regression in posteriordb's format, whose long chain is Gibbs's in closed-form steps."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 2))
    y = x @ [1.0, -2.0] + rng.normal(size=200)
    (tmp_path / f"{NAME}.data.json").write_text(json.dumps({"N": 200, "D": 2, "X": x.tolist(), "y": y.tolist()}))
    draws, sigma = [], 1.0
    grid = np.linspace(0.7, 1.4, 2000)
    for _ in range(4000):
        precision = x.T @ x / sigma**2 + np.eye(2) / 100
        covariance = np.linalg.inv(precision)
        beta = rng.multivariate_normal(covariance @ x.T @ y / sigma**2, covariance)
        density = -200 * np.log(grid) - ((y - x @ beta) ** 2).sum() / (2 * grid**2) - grid**2 / 200
        weight = np.exp(density - density.max())
        sigma = rng.choice(grid, p=weight / weight.sum())
        draws.append([*beta, sigma])
    columns = np.asarray(draws).T.reshape(3, 4, 1000)
    np.savez(tmp_path / f"{NAME}.npz", **dict(zip(("beta[1]", "beta[2]", "sigma"), columns, strict=True)))
    return tmp_path


@pytest.mark.usefixtures("float64")
def test_a_good_guide_measures_as_good_and_a_shifted_one_as_shifted(folder: Path) -> None:
    reference = load_reference(folder, NAME)
    model, guide, seconds = fit_reference(
        reference, False, "AutoFlow linear", GuideSettings(steps=1, learning_rate=1e-4), seed=0, progress=False
    )
    good = measure_guide(model, guide, reference)
    assert good["mean_error"] < 0.1
    assert 0.95 < good["sd_low"] <= good["sd_high"] < 1.05
    assert good["elbo_se"] < 0.01
    assert seconds > 0
    layer: Any = guide.affine_layer
    loc, tril = layer.loc_and_scale()
    layer.restart(loc.detach() + 2 * tril.detach()[:, 0], 2 * tril.detach())
    bad = measure_guide(model, guide, reference)
    assert bad["mean_error"] == pytest.approx(2, abs=0.2)
    assert bad["sd_low"] == pytest.approx(2, abs=0.2)
    assert bad["elbo"] < good["elbo"] - 2


def test_the_command_line_writes_every_cell(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "out"
    options = ["--data", str(folder), "--out", str(out), "--seeds", "2", "--steps", "2", "--particles", "2"]
    assert main([*options, "--posteriors", NAME, "--guides", "AutoNormal", "AutoFlow linear"]) == 0
    pyro.clear_param_store()
    table = pd.read_csv(out / "reference_posteriors.csv")
    assert list(table["guide"]) == ["AutoNormal", "AutoNormal", "AutoFlow linear", "AutoFlow linear"]
    assert "2 steps of Adam" in capsys.readouterr().out
    assert torch.get_default_dtype() == torch.float32
    assert list(summary(table)["finished"]) == [2, 2]
    with pytest.raises(FlowvaeError, match="did you mean AutoNormal"):
        main([*options, "--guides", "AutoNorml"])


def test_every_guide_is_named_by_its_class() -> None:
    assert all(
        name.split()[0] in ("AutoNormal", "AutoMultivariateNormal", "AutoIAFNormal", "AutoFlow") for name in GUIDES
    )
    assert set(reference_posteriors.POSTERIORS) > {NAME}
