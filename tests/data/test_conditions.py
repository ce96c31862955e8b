"""What a conditional model conditions on, and the identity of its data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flowvae import (
    MAF,
    MLP,
    Arrays,
    Condition,
    Experiment,
    FlowvaeError,
    Gaussian,
    SecondStage,
    SemiAmortized,
    Training,
    as_data,
    load,
)
from flowvae.data import Digits, batch_of, condition_of, condition_units, identity_of

DATA = Digits().load(0)


def test_labels_become_one_hot_rows() -> None:
    c = condition_of(DATA, Condition(), "test")
    assert DATA.labels is not None
    assert c.shape == (270, 10)
    assert torch.equal(c.argmax(1), DATA.labels["test"])
    assert torch.equal(c.sum(1), torch.ones(270))
    assert batch_of(DATA, None, "test").c is None


def test_what_is_not_there_is_refused() -> None:
    bare = replace(DATA, labels=None)
    for condition in (Condition(), Condition(on="covariates")):
        with pytest.raises(FlowvaeError) as refused:
            condition_of(bare, condition, "valid")
        assert "digits" in str(refused.value)


def test_the_identity_covers_labels_only_where_they_are_conditioned_on() -> None:
    assert DATA.labels is not None
    other = replace(DATA, labels={split: (labels + 1) % 10 for split, labels in DATA.labels.items()})
    assert identity_of(DATA, None) == DATA.identity == identity_of(other, None)
    assert identity_of(DATA, Condition()) == identity_of(replace(DATA), Condition())
    assert identity_of(DATA, Condition()).sha256 != identity_of(other, Condition()).sha256


def test_labels_that_changed_are_noticed(tmp_path: Path) -> None:
    x, y = np.random.default_rng(0).integers(0, 2, (60, 5)), np.arange(60) % 3
    np.savez(tmp_path / "mine.npz", train=x, labels=y)
    experiment = Experiment(
        latent=2,
        encoder=MLP((4,)),
        decoder=MLP((4,)),
        data=Arrays(tmp_path / "mine.npz", "bernoulli"),  # type: ignore[arg-type]
        condition=Condition(prior=False),
        inference=Training(epochs=1, device="cpu"),
    )
    experiment.run(tmp_path / "run", draws=5, figures=False, progress=False)
    np.savez(tmp_path / "mine.npz", train=x, labels=(y + 1) % 3)
    with pytest.raises(FlowvaeError):
        _ = load(tmp_path / "run").data
    with pytest.raises(FlowvaeError):
        experiment.run(tmp_path / "run", resume=True, draws=5, figures=False, progress=False)


def test_covariates_have_the_units_of_train() -> None:
    c = np.random.default_rng(0).normal(2000, 3, (90, 3)).astype(np.float32)
    c[:, 1], c[:, 2] = 0.1, 1e30 * c[:, 2]
    splits = {"train": c[:60], "valid": c[60:75], "test": c[75:]}
    x = {split: np.random.default_rng(1).normal(size=(len(part), 2)) for split, part in splits.items()}
    data = as_data(x, "gaussian", conditions=splits).load(0)
    units = condition_units(data, Condition(on="covariates"))
    assert units is not None
    exact = c[:60].astype(np.float64)
    np.testing.assert_allclose(units.center, exact.mean(0), rtol=1e-6)
    np.testing.assert_allclose(units.unit, np.where([True, False, True], exact.std(0), 1), rtol=1e-6)
    assert condition_units(data, Condition()) is condition_units(data, None) is None


FAST = Training(epochs=2, device="cpu")
STUDENT = MAF(hidden_features=(8,), transforms=2)


@pytest.mark.parametrize(
    ("guide", "second"),
    [
        (Gaussian(), None),
        (SemiAmortized(steps=1, draws=2), None),
        (Gaussian(), SecondStage(STUDENT, FAST)),
        (Gaussian(), SecondStage(STUDENT, FAST, distill="both", teacher_draws=64)),
    ],
    ids=["gaussian", "semi-amortized", "second-stage", "distilled"],
)
def test_the_units_of_covariates_do_not_matter(guide: Any, second: SecondStage | None, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    c = rng.integers(-8, 8, (80, 2)) / 4
    x = rng.normal(size=(80, 3)) + c[:, :1]
    found = []
    for scale, shift in ((1, 0), (2**20, 0), (2**-20, 0), (1, 2048)):
        experiment = Experiment(
            latent=2,
            prior=MAF(hidden_features=(8,), transforms=1),
            guide=guide,
            encoder=MLP((4,)),
            decoder=MLP((4,)),
            condition=Condition(on="covariates"),
            data=as_data(x, "gaussian", conditions=scale * c + shift),
            inference=FAST,
            second_stage=second,
        )
        place = tmp_path / f"{scale}-{shift}"
        experiment.run(place, draws=5, figures=False, progress=False)
        run = load(place)
        drawn = run.sample(80, c=scale * c + shift, seed=0)
        found.append(np.r_[run.log_prob(x, c=scale * c + shift, draws=5), drawn.ravel()])
    for other in found[1:]:
        np.testing.assert_allclose(found[0], other, rtol=2e-3, atol=2e-3)
