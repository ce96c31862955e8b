"""From arrays to a checked data set: conditions, and splits that are drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from flowvae.core.errors import FlowvaeError
from flowvae.core.parts import parse_likelihood
from flowvae.data import as_data
from flowvae.data.dataset import SPLITS
from flowvae.data.preparation import Part, prepare

RNG = np.random.default_rng(0)
X = RNG.standard_normal((40, 3))


def test_conditions_go_with_their_data_points() -> None:
    x = X
    data = as_data(x, "gaussian", conditions=2 * x[:, :2], labels=np.arange(40)).load(0)
    assert data.conditions is not None
    assert data.labels is not None
    for split in SPLITS:
        torch.testing.assert_close(data.conditions[split], 2 * getattr(data, split)[:, :2])
        assert torch.equal(getattr(data, split), torch.from_numpy(x).float()[data.labels[split]])
    with pytest.raises(FlowvaeError, match=r"conditions of train.*column 1"):
        as_data(x, "gaussian", conditions=np.stack([x[:, 0], 1.7e9 + x[:, 1]], 1)).load(0)


def test_splits_that_are_given_stay_as_they_are() -> None:
    gaussian = parse_likelihood("gaussian")
    parts = {"train": Part(X[:20]), "test": Part(X[20:])}
    data = prepare("x", parts, gaussian, 3, name="x", preprocessing="measured twice")
    assert torch.equal(data.test, torch.from_numpy(X[20:]).float())
    assert (len(data.train), len(data.valid)) == (17, 3)
    assert data.identity.split == "valid drawn from train by seed 3: train 17, valid 3, test 20"
    assert data.identity.preprocessing == "measured twice"
    others = [prepare("x", parts, gaussian, seed, name="x").valid for seed in (3, 4)]
    assert torch.equal(others[0], data.valid)
    assert not torch.equal(others[1], data.valid)


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        (np.zeros(39), r"train: shape \(39, 1\)"),
        (np.zeros((40, 0)), r"train: shape \(40, 0\)"),
        (np.full((40, 1), "a"), "U1"),
        (np.where(np.arange(40) == 7, np.nan, 1.0), "nan at row 7, column 0"),
    ],
)
def test_other_conditions_are_refused(conditions: Any, message: str) -> None:
    with pytest.raises(FlowvaeError, match=message):
        as_data(X, "gaussian", conditions=conditions).load(0)
    with pytest.raises(FlowvaeError, match="conditions lack test"):
        as_data({"train": X, "test": X}, "gaussian", conditions={"train": X}).load(0)
