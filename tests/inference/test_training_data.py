"""Data of a training: arrays, tensors, sources and batches with conditions give the same training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from training_cases import FAST, Rows, equal, pair, values, weights

from flowvae import FlowvaeError
from flowvae.data.batch import Batch
from flowvae.inference import Fitted, fit

X, V = values(50, 3), values(20, 3, seed=1)


def trained(train: Any, valid: Any, *event: int, condition: int = 0) -> tuple[nn.ModuleDict, Fitted]:
    parts = pair(*(event or (3,)), condition=condition)
    return parts, fit(parts["model"], parts["guide"], train, valid, FAST, progress=False)


def test_array_tensor_batch_and_source_give_the_same_bits(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X.double().numpy())
    expected, fitted = trained(X, V)
    ways: list[tuple[Any, Any]] = [
        (X.numpy(), V.numpy()),
        (X.double().numpy(), V.numpy().astype(">f8")),
        (np.load(tmp_path / "x.npy", mmap_mode="r"), V),
        (Batch(X), Batch(V)),
        (Rows(X), Rows(V)),
        (Batch(Rows(X)), V),
    ]
    for train, valid in ways:
        parts, again = trained(train, valid)
        assert equal(weights(parts), weights(expected))
        assert list(again.history["valid_elbo"]) == list(fitted.history["valid_elbo"])


@pytest.mark.parametrize("event", [(), (1, 2, 2), (2, 3)])
def test_data_keep_their_event_shape(event: tuple[int, ...]) -> None:
    parts = pair(*(event or (1,)))
    x = values(20, *event)
    if not event:
        parts["model"].event = ()
        parts["guide"].encoder = nn.Linear(1, 2)
        model, guide = _Scalar(parts["model"]), _Scalar(parts["guide"])
        fit(model, guide, x, x, FAST, progress=False)
    else:
        fit(parts["model"], parts["guide"], x, x, FAST, progress=False)
        assert {tuple(seen[0].shape[1:]) for seen in parts["model"].seen} == {event}


class _Scalar(nn.Module):
    """A pair of scalar data, which calls one of columns."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, size: int | None = None) -> None:
        assert x.ndim == 1
        if hasattr(self.inner, "event"):
            self.inner.event = (1,)
        self.inner(x[:, None])


@pytest.mark.parametrize("source", [False, True])
def test_each_data_point_comes_with_its_condition(source: bool) -> None:
    c = X[:, :2] + 5
    train = Batch(Rows(X) if source else X, c)
    parts, _ = trained(train, Batch(V, V[:, :2] + 5), condition=2)
    assert len(parts["model"].seen) > 10
    for x, given in parts["model"].seen:
        assert torch.equal(given, x[:, :2] + 5)


def test_a_condition_is_learned() -> None:
    """x = 3 c and noise, and z is of no use: by least squares v is 3."""
    c = values(400, 1)
    x = 3 * c + 0.1 * values(400, 1, seed=2)
    parts = pair(1, condition=1)
    settings = replace(FAST, epochs=150, batch_size=100, learning_rate=0.05)
    fit(parts["model"], parts["guide"], Batch(x, c), Batch(x, c), settings, progress=False)
    assert parts["model"].v.item() == pytest.approx(torch.linalg.lstsq(c, x).solution.item(), abs=0.1)


def test_a_source_is_never_read_as_a_whole() -> None:
    train, valid = Rows(values(3000, 3)), Rows(values(5000, 3))
    trained(train, valid)
    assert max(train.read) == FAST.batch_size
    assert max(valid.read) <= 4096 // FAST.validation_draws


def test_an_error_of_a_source_surfaces() -> None:
    class Broken(Rows):
        def __getitem__(self, index: Tensor) -> Tensor:
            raise ValueError("disk")

    with pytest.raises(ValueError, match="disk") as caught:
        trained(Broken(X), V)
    assert not isinstance(caught.value, FlowvaeError)


@pytest.mark.parametrize("compiled", ["none", "capture"])
def test_an_outlier_of_a_source_is_named_by_its_row(compiled: str) -> None:
    x = X.clone()
    x[17, 1] = 1e30
    parts = pair(3)
    with pytest.raises(FlowvaeError, match=r"1e\+30.*row 17"):
        fit(parts["model"], parts["guide"], Rows(x), V, replace(FAST, compile=compiled), progress=False)


class _Checks(nn.Module):
    """A guide that checks its data."""

    def __init__(self) -> None:
        super().__init__()
        self.guide = pair(3)["guide"]
        self.checked: list[tuple[int, ...]] = []

    def check(self, x: Tensor) -> None:
        self.checked.append(tuple(x.shape))

    def forward(self, *args: Tensor) -> None:
        self.guide(*args)


def test_a_guide_with_a_check_checks() -> None:
    guide = _Checks()
    fit(pair(3)["model"], guide, X, Rows(V), FAST, progress=False)
    assert guide.checked == [(50, 3), (1, 3)]


OFFSET = 1.7e9 + 3 * X.double().numpy()


@pytest.mark.parametrize(
    ("train", "valid", "held"),
    [
        ([[1.0]], V, ["train", "1.0"]),
        (X[:0], V, ["train", "(0, 3)"]),
        (X, np.zeros((0, 3)), ["valid", "(0, 3)"]),
        (np.array([["a"]]), V, ["train", "(1, 1)"]),
        (OFFSET, V, ["train", "float32", "64"]),
        ((2**24 + np.arange(50 * 3)).reshape(50, 3), V, []),
        (X, V[:, :2], ["valid.x", "(N, 2)", "(N, 3)"]),
        (Batch(X, X[:, :1]), V, ["valid.c", "none", "(N, 1)"]),
        (Batch(X, X[:-1, :1]), V, ["train.c", "(49, 1)", "(50, C)"]),
        (Batch(X, X[:, 0]), V, ["train.c", "(50,)"]),
    ],
)
def test_what_cannot_be_trained_on_is_refused(train: Any, valid: Any, held: list[str]) -> None:
    with pytest.raises(FlowvaeError) as refused:
        trained(train, valid, condition=1)
    assert "\n" not in str(refused.value)
    for text in held:
        assert text in str(refused.value)


def test_a_constant_column_is_no_loss_of_digits() -> None:
    x = X.double().numpy().copy()
    x[:, 1] = 0.1
    trained(x, x)
