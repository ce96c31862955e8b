"""Batches of data points and conditions, and the protocol of data sources."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Size, Tensor

__all__ = ["Batch", "Source", "positions", "redrawn"]


@runtime_checkable
class Source(Protocol):
    """Data that need not be in memory: anything with a length that can be indexed with an integer tensor.

    Reading a data point again gives the same values. A source of random data points, such as binarized images, may have
    a method `redrawn(seed)` that returns the same data points with other random numbers; training calls it in every
    epoch. A method `to(device)` may return a source whose batches are on a device.
    """

    @property
    def shape(self) -> Size:
        """(N, *event shape), as for a tensor."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the tensors that indexing returns."""
        ...

    def __len__(self) -> int:
        """The number of data points N."""
        ...

    def __getitem__(self, index: Any) -> Tensor:
        """The data points of an integer tensor (B,), shape (B, *event shape), on the CPU; see `positions`."""
        ...

    def batches(self, order: Iterable[Tensor]) -> Iterator[Tensor]:
        """`self[index]` for each index in turn; may read ahead."""
        ...


Data = TypeVar("Data", bound="Tensor | Source")


def redrawn(x: Data, seed: int) -> Data:
    """The same data points, with random values redrawn from a seed: see `Source`."""
    draw = getattr(x, "redrawn", None)
    return x if draw is None else draw(seed)


def positions(index: Any, count: int) -> Tensor:
    """Positions (B,) of the data points that an index of a source selects; shape () for a single number.

    Args:
        index: an integer tensor, which is returned unchanged, or any other index along the first axis of a tensor:
            a slice, a list, an array or a mask.
        count: number of data points of the source.

    Raises:
        IndexError: for positions beyond `count`, unless `index` is an integer tensor.
    """
    if isinstance(index, Tensor) and index.dtype != torch.bool and index.ndim == 1:
        return index
    return torch.arange(count)[index]


@dataclass(frozen=True)
class Batch:
    """Data points x and, for a conditional model, the condition c of each.

    Args:
        x: data, shape (N, *event shape), a tensor or a `Source`.
        c: condition, shape (N, C); None for an unconditional model.
    """

    x: Tensor | Source
    c: Tensor | None = None

    @classmethod
    def of(cls, data: Tensor | Source | Batch) -> Batch:
        """Return a batch unchanged, and wrap data as a batch without conditions."""
        return data if isinstance(data, Batch) else cls(data)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: Tensor) -> Batch:
        """The data points of an integer tensor (B,)."""
        return Batch(self.x[index], None if self.c is None else self.c[index])

    @property
    def args(self) -> tuple[Tensor, ...]:
        """Arguments of model and guide: (x,) or (x, c)."""
        x: Tensor = self.x if isinstance(self.x, Tensor) else self.x[torch.arange(len(self.x))]
        return (x,) if self.c is None else (x, self.c)

    def to(self, device: torch.device) -> Batch:
        """The batch on a device; a source without a method `to` is not moved."""
        move = getattr(self.x, "to", None)
        return Batch(self.x if move is None else move(device), None if self.c is None else self.c.to(device))

    def redrawn(self, seed: int) -> Batch:
        """The same data points, with random values redrawn from a seed."""
        return Batch(redrawn(self.x, seed), self.c)

    def split(self, rows: int) -> Iterator[Batch]:
        """Consecutive batches of `rows` data points; the last one may be smaller."""
        if isinstance(self.x, Tensor):
            parts = self.x.split(rows)
            conditions = (None,) * len(parts) if self.c is None else self.c.split(rows)
            yield from (Batch(x, c) for x, c in zip(parts, conditions, strict=True))
        else:
            yield from self.batches(torch.arange(len(self)).split(rows))

    def batches(self, order: Iterable[Tensor]) -> Iterator[Batch]:
        """`self[index]` for each index in turn."""
        if isinstance(self.x, Tensor):
            yield from (self[index] for index in order)
            return
        indices = list(order)
        for index, x in zip(indices, self.x.batches(indices), strict=True):
            yield Batch(x, None if self.c is None else self.c[index])
