"""Sources: rows of a memory-mapped array, and parts of other sources."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from flowvae.data import MappedArray, Source
from flowvae.data.sources import Selected, array_blocks, read_rows, together

RNG = np.random.default_rng(0)


def mapped(path: Path, array: np.ndarray) -> np.ndarray:
    np.save(path, array)
    return np.load(path, mmap_mode="r")


@pytest.mark.parametrize("kind", ["u1", "i2", "?", ">f4", "f2", "f8", "g"])
def test_rows_of_any_type_come_as_floats(tmp_path: Path, kind: str) -> None:
    array = RNG.integers(0, 2 if kind == "?" else 100, (50, 2, 3)).astype(kind)
    source = MappedArray(mapped(tmp_path / "x.npy", array))
    assert isinstance(source, Source)
    assert (source.shape, source.dtype, len(source)) == ((50, 2, 3), torch.float32, 50)
    index = torch.tensor([7, 0, 7, 49])
    expected = torch.from_numpy(array.astype(np.float32))
    assert torch.equal(source[index], expected[index])
    assert source[index].dtype == torch.float32
    for order in ([index, index[:1]], [index[:0]]):
        assert all(torch.equal(x, expected[i]) for x, i in zip(source.batches(order), order, strict=True))
    some = Selected(source, torch.tensor([3, 1, 40]))
    assert some.shape == (3, 2, 3)
    assert torch.equal(some[torch.tensor([2, 0])], expected[[40, 3]])
    assert torch.equal(next(some.batches([torch.arange(3)])), expected[[3, 1, 40]])


def test_blocks_are_the_whole_array(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowvae.data.sources.VALUES", 10)
    monkeypatch.setattr("flowvae.data.sources.ROWS", 4)
    array = RNG.standard_normal((11, 3))
    found = list(array_blocks(mapped(tmp_path / "x.npy", array)))
    assert max(map(len, found)) == 3
    assert np.array_equal(np.concatenate(found), array)
    index = RNG.integers(0, 11, 10)
    assert np.array_equal(read_rows(mapped(tmp_path / "x.npy", array), index), array[index])


def test_an_offset_is_subtracted_before_the_cast() -> None:
    x = 1.7e9 + RNG.standard_normal((20, 2))
    offset = np.array([1.7e9, 1.7e9])
    found = MappedArray(x, offset)[torch.arange(20)]
    torch.testing.assert_close(found, torch.from_numpy(x - offset).float())
    whole = 2**60 + np.arange(20)[:, None] * np.ones((1, 2), int)
    assert MappedArray(whole, np.full(2, 2.0**60))[torch.arange(20)][:, 0].tolist() == list(range(20))


@pytest.mark.parametrize("most", [1, 12, 10**6])
def test_batches_that_are_read_together_are_those_of_each_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr("flowvae.data.sources.VALUES", most)
    array = RNG.standard_normal((40, 3)).astype("f4")
    order = torch.from_numpy(RNG.integers(0, 40, 50)).split(4)  # the last one is smaller, and some rows come twice
    found = list(MappedArray(mapped(tmp_path / "x.npy", array)).batches(iter(order)))
    assert len(found) == len(order)
    for x, index in zip(found, order, strict=True):
        assert torch.equal(x, torch.from_numpy(array)[index])
        assert x.untyped_storage().nbytes() == 4 * x.numel()  # a batch that is kept keeps no other
    assert list(MappedArray(array).batches([])) == []


def test_a_group_is_as_large_as_it_may_be() -> None:
    order = [torch.arange(rows) for rows in (2, 2, 3, 1, 9, 1)]
    assert [[len(index) for index in group] for group in together(order, 10, 40)] == [[2, 2], [3, 1], [9], [1]]
    assert list(together([], 10, 40)) == []


def test_no_more_than_one_group_is_read_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowvae.data.sources.VALUES", 4)  # two rows
    source, asked = MappedArray(np.zeros((20, 2))), []

    def order() -> Iterator[torch.Tensor]:
        for row in range(20):
            asked.append(row)
            yield torch.tensor([row])

    batches = source.batches(order())
    next(batches)
    assert asked == [0, 1, 2, 3, 4]  # two groups, and the index that begins the next
    batches.close()
    assert asked == [0, 1, 2, 3, 4]


def test_an_error_of_the_reader_is_raised_where_batches_are_used() -> None:
    with pytest.raises(IndexError):
        list(MappedArray(np.zeros((20, 2))).batches([torch.tensor([1]), torch.tensor([20])]))
