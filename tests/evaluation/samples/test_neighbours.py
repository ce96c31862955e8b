"""Nearest training data, against all distances at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from picture_cases import WatchedSource
from torch import Tensor

from flowvae.core.errors import FlowvaeError
from flowvae.evaluation.samples.neighbours import nearest_neighbours


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def by_hand(x: Tensor, train: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    a, b = x.double().flatten(1).numpy(), train.double().flatten(1).numpy()
    distance = np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))
    order = distance.argsort(1)[:, :k]
    return np.take_along_axis(distance, order, 1), order


@pytest.mark.parametrize("rows", [1, 7, 1000])
@pytest.mark.parametrize("source", [False, True])
def test_neighbours_are_the_nearest_of_all(rows: int, source: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowvae.evaluation.samples.neighbours.VALUES", 12 * rows)
    x, train = drawn(5, 3, 2, 2, seed=1), drawn(60, 3, 2, 2, seed=2)
    watched = WatchedSource(train)
    distances, places = nearest_neighbours(x, watched if source else train, 4)
    expected, order = by_hand(x, train, 4)
    np.testing.assert_array_equal(places, order)
    np.testing.assert_allclose(distances, expected, rtol=1e-5)
    assert watched.most <= rows
    assert watched.all == (60 if source else 0)


def test_a_copy_is_at_distance_zero() -> None:
    train = 255 * drawn(40, 1, 4, 4, seed=3)
    distances, places = nearest_neighbours(train[[31, 7]], train)
    assert places.flatten().tolist() == [31, 7]
    assert distances.flatten().tolist() == [0, 0]


def test_distances_of_features() -> None:
    x, train = drawn(5, 6, seed=1), drawn(30, 6, seed=2)
    _, places = nearest_neighbours(x, train, 3, features=lambda part: part[:, :2] ** 2)
    np.testing.assert_array_equal(places, by_hand(x[:, :2] ** 2, train[:, :2] ** 2, 3)[1])


@pytest.mark.parametrize("source", [False, True])
def test_the_first_rows_are_searched_alone(source: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowvae.evaluation.samples.neighbours.VALUES", 30)
    x, train = drawn(5, 6, seed=1), drawn(30, 6, seed=2)
    watched = WatchedSource(train)
    _, places = nearest_neighbours(x, watched if source else train, 3, searched=12)
    np.testing.assert_array_equal(places, by_hand(x, train[:12], 3)[1])
    assert watched.all == (12 if source else 0)


def test_no_more_neighbours_than_data() -> None:
    distances, places = nearest_neighbours(drawn(5, 6, seed=1), drawn(2, 6, seed=2), 4)
    assert distances.shape == places.shape == (5, 2)


def test_a_number_of_neighbours_below_one_is_refused() -> None:
    with pytest.raises(FlowvaeError, match="0"):
        nearest_neighbours(drawn(5, 6, seed=1), drawn(2, 6, seed=2), 0)
