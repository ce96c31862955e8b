"""What a conditional model conditions on, and the identity of its data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from flowvae import MLP, Arrays, Condition, Experiment, FlowvaeError, Training, load
from flowvae.data import Digits, batch_of, condition_of, identity_of

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
