"""scikit-learn's digits: every image once, the test images fixed."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import Tensor

from flowvae.data import Digits


def rows(x: Tensor) -> set[bytes]:
    return {row.numpy().tobytes() for row in x}


def test_digits_are_all_the_digits_once() -> None:
    data = Digits().load(0)
    together = torch.cat((data.train, data.valid, data.test))
    original = torch.tensor(load_digits().images, dtype=torch.float32)[:, None]
    assert data.shape == Digits().shape == (1, 8, 8)
    assert torch.equal(together.sort(0).values, original.sort(0).values)
    assert rows(together) == rows(original)
    assert [len(part) for part in (data.train, data.valid, data.test)] == [1257, 270, 270]
    assert data.labels is not None
    counts = torch.bincount(data.labels["test"])
    assert counts.min() >= 25  # stratified: 27 of each, give or take
    assert counts.max() <= 29


def test_the_seed_moves_valid_and_never_test() -> None:
    one, other, again = Digits().load(0), Digits().load(1), Digits().load(0)
    assert torch.equal(one.test, other.test)
    assert not torch.equal(one.valid, other.valid)
    assert torch.equal(one.train, again.train)
    assert one.identity == again.identity
    assert one.identity.sha256 != other.identity.sha256
    assert not rows(one.test) & (rows(other.train) | rows(other.valid)) - rows(one.train)
