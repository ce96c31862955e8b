"""The study of conditional priors: its measures against Bayes' rule and closed forms, and that it goes on."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal

from flowvae import MLP, Experiment, as_data, load
from flowvae.comparisons.engine import bases
from flowvae.comparisons.studies import conditional_priors as study
from flowvae.core.parts import Condition

SPLITS = ("train", "valid", "test")
LOCS = torch.tensor([[-1.0, 0.5], [1.0, 0.0]])  # of two classes
SCALE = 0.7
SHARES = torch.tensor([0.25, 0.75])


def gaussian(loc: Tensor, scale: float = SCALE) -> Distribution:
    return Independent(Normal(loc, torch.full_like(loc, scale)), 1)


def run_of(z: Tensor, y: Tensor) -> Any:
    data = as_data(dict.fromkeys(SPLITS, LOCS[y]), "gaussian", labels=dict.fromkeys(SPLITS, y)).load(0)
    prior = SimpleNamespace(prior_given=lambda c: gaussian(torch.zeros(2), 1.0))
    return SimpleNamespace(
        data=data,
        pair=SimpleNamespace(model=prior),
        experiment=SimpleNamespace(seed=0),
        encode=lambda x, draws, seed: z,
    )


def test_the_gains_of_the_true_densities_are_those_of_the_theory() -> None:
    y = torch.tensor([0, 1, 1, 1]).repeat(2000)
    z = gaussian(LOCS[y]).sample(torch.Size((20,)))
    mixture = MixtureSameFamily(Categorical(SHARES), gaussian(LOCS))
    found = study.gains(run_of(z, y), lambda: mixture, lambda c: gaussian(LOCS[c.argmax()]))  # type: ignore[arg-type]
    # E log N(z; μ_c, σ²I) = −log 2πσ² − 1 in two dimensions, and E log N(z; 0, I) = −log 2π − (2σ² + |μ_c|²) / 2
    squares = (SHARES * LOCS.square().sum(1)).sum().item()
    gain = -math.log(2 * math.pi * SCALE**2) - 1 + math.log(2 * math.pi) + (2 * SCALE**2 + squares) / 2
    information = -math.log(2 * math.pi * SCALE**2) - 1 + mixture_entropy(mixture)
    assert 0.3 < information < Categorical(SHARES).entropy()
    assert found["flow_per_class_nats"] == pytest.approx(0, abs=1e-6)
    assert found["knowing_class_nats"] == pytest.approx(information, abs=0.01)
    assert found["class_nats"] == pytest.approx(information, abs=0.01)
    assert found["flow_nats"] == pytest.approx(gain - information, abs=0.01)


def mixture_entropy(mixture: Distribution) -> float:
    """By quadrature on a grid."""
    axis = torch.linspace(-7, 7, 701, dtype=torch.float64)
    log_p = mixture.log_prob(torch.cartesian_prod(axis, axis)).double()
    return -(log_p.exp() * log_p).sum().item() * (axis[1] - axis[0]).item() ** 2


def test_a_fitted_flow_finds_the_density_of_codes_with_and_without_the_class() -> None:
    y = torch.arange(600) % 2
    x = torch.eye(2)[y]  # images say their class, and the guide is q(z | x) = N(μ_c, σ²I)
    data = as_data(dict.fromkeys(SPLITS, x), "bernoulli", labels=dict.fromkeys(SPLITS, y)).load(0)
    guide = SimpleNamespace(posterior=lambda x: gaussian(x @ LOCS))
    run: Any = SimpleNamespace(
        data=data,
        pair=SimpleNamespace(guide=guide),
        experiment=SimpleNamespace(seed=0, latent_shape=torch.Size((2,))),
    )
    z = gaussian(LOCS[y]).sample(torch.Size((50,)))
    with_class = study.fit_flow(run, Condition(), 100)
    alone = study.fit_flow(run, None, 100)
    mixture = MixtureSameFamily(Categorical(torch.ones(2)), gaussian(LOCS))
    with torch.no_grad():
        gaps = [
            (gaussian(LOCS[y]).log_prob(z) - with_class(torch.eye(2)[y]).log_prob(z)).mean().item(),
            (mixture.log_prob(z) - alone().log_prob(z)).mean().item(),
        ]
    assert all(-0.02 < gap < 0.1 for gap in gaps), gaps  # KL of the truth to the flow, in nats


def test_the_command_writes_its_tables_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(bases.BASES, "digits", Experiment(latent=2, encoder=MLP((16,)), decoder=MLP((16,))))
    arms = {name: study.ARMS[name] for name in (study.NOBODY, study.PRIOR)}
    monkeypatch.setattr(study, "ARMS", arms)
    pairs = {"nll_nats": ((study.PRIOR, study.NOBODY),), "accuracy_percent": ((study.PRIOR, study.REGRESSION),)}
    monkeypatch.setattr(study, "COMPARED", pairs)
    words = ["--out", str(tmp_path), "--epochs", "2", "--draws", "20", "--steps", "2", "--seeds"]
    assert study.main([*words, "1"]) == 0
    first = pd.read_csv(tmp_path / "table.csv", dtype={"cell": str})
    assert list(first["arm"]) == [study.NOBODY, study.PRIOR, study.REGRESSION]

    # p(x) and p(c | x), from log p(x | c) of each class in turn
    row = first.set_index("arm").loc[study.PRIOR]
    run = load(tmp_path / "runs" / row["cell"])
    y = run.data.labels["test"].long()
    shares = torch.bincount(run.data.labels["train"].long()).double() / len(run.data.train)
    given = torch.stack([run.log_prob(run.data.test, torch.full_like(y, label), draws=20) for label in range(10)], 1)
    evidence = (given.exp() * shares).sum(1).log()  # float64, so that e^−300 does not underflow
    own = given[torch.arange(len(y)), y]
    assert row["nll_given_nats"] == pytest.approx(-own.mean().item(), rel=1e-5)
    assert row["nll_nats"] == pytest.approx(-evidence.mean().item(), rel=1e-5)
    assert row["log_class_nats"] == pytest.approx((own + shares[y].log() - evidence).mean().item(), rel=1e-3)
    assert row["accuracy_percent"] == pytest.approx(100 * (given + shares.log()).argmax(1).eq(y).double().mean())
    parts = first.loc[0, ["knowing_class_nats", "flow_per_class_nats"]]
    assert first.loc[0, "class_nats"] == pytest.approx(parts.sum())

    def only_new(run: Any, *args: Any) -> dict[str, float]:
        assert run.experiment.seed == 1, "a finished row is measured again"
        return measure(run, *args)

    measure = study.measure_run
    monkeypatch.setattr(study, "measure_run", only_new)
    checkpoints = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("checkpoint.safetensors")}
    assert len(checkpoints) == 2
    assert study.main([*words, "2"]) == 0
    table = pd.read_csv(tmp_path / "table.csv", dtype={"cell": str})
    pd.testing.assert_frame_equal(table[:3], first)
    assert {file: file.stat().st_mtime_ns for file in checkpoints} == checkpoints

    values = {name: rows.set_index("seed")["nll_nats"] for name, rows in table.groupby("arm")}
    difference = (values[study.PRIOR] - values[study.NOBODY]).to_numpy()
    compared = pd.read_csv(tmp_path / "differences.csv").set_index("measure")
    assert compared.loc["nll_nats", "difference"] == pytest.approx(difference.mean())
    assert compared.loc["nll_nats", "se"] == pytest.approx(abs(difference[0] - difference[1]) / 2)  # √(½(a−b)²/2)
    assert np.isfinite(compared.loc["accuracy_percent", "difference"])
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    assert f"{values[study.NOBODY].mean():.2f} ± {values[study.NOBODY].sem():.2f}" in capsys.readouterr().out


def test_arms_differ_in_who_reads_the_class_alone() -> None:
    with_flow = [condition for prior, condition in study.ARMS.values() if prior == study.FLOW and condition]
    readers = [(c.prior, c.encoder and c.guide, c.decoder) for c in with_flow]
    assert readers == [(True, True, False), (True, False, False), (True, True, True)]
    named = {name for pairs in study.COMPARED.values() for pair in pairs for name in pair}
    assert named <= {*study.ARMS, study.REGRESSION}
