"""Reading data that may not fit into memory: blocks, the first data points, all of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Size, Tensor

from flowvae.core.errors import FlowvaeError
from flowvae.data import Source, blocks, first, preview, to_tensor
from flowvae.data.access import Flattened


@dataclass
class Ramp:
    """The data point i holds the number i everywhere; nothing of it is in memory."""

    count: int
    event: tuple[int, ...] = (2, 3)

    @property
    def shape(self) -> Size:
        return Size((self.count, *self.event))

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: Tensor) -> Tensor:
        return index.float().reshape(-1, *(1,) * len(self.event)).expand(-1, *self.event)

    def batches(self, order: Iterable[Tensor]) -> Iterator[Tensor]:
        return (self[index] for index in order)


X = torch.arange(10.0).reshape(-1, 1, 1).expand(-1, 2, 3)


def test_blocks_are_all_data_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowvae.data.access.VALUES", 25)
    assert isinstance(Ramp(10), Source)
    parts = list(blocks(Ramp(10)))
    assert [len(part) for part in parts] == [4, 4, 2]
    assert torch.equal(torch.cat(parts), X)
    (whole,) = blocks(X)
    assert whole is X
    assert [len(part) for part in blocks(Ramp(3, (30,)))] == [1, 1, 1]  # a data point larger than a block


@pytest.mark.parametrize("count", [1, 4, 30])
def test_the_first_data_points(count: int) -> None:
    assert torch.equal(first(Ramp(10), count), X[:count])
    assert torch.equal(first(X, count), X[:count])


def test_a_preview_is_a_tensor_as_it_is_and_a_part_of_a_source() -> None:
    assert preview(X, 3) is X
    assert torch.equal(preview(Ramp(10), 3), X[:3])


def test_what_is_larger_than_memory_is_not_read() -> None:
    assert torch.equal(to_tensor(Ramp(10), "the test"), X)
    assert to_tensor(X, "the test") is X
    with pytest.raises(FlowvaeError, match="the test: needs 240 PB"):
        to_tensor(Ramp(10**16), "the test")


def test_rows_of_a_source() -> None:
    rows = Flattened(Ramp(10))
    assert isinstance(rows, Source)
    assert rows.shape == (10, 6)
    assert rows.dtype == torch.float32
    index = torch.tensor([7, 2])
    assert torch.equal(rows[index], X[index].flatten(1))
    assert torch.equal(torch.cat(list(rows.batches([index, index]))), X[index].flatten(1).repeat(2, 1))
