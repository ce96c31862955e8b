"""Data points with what the model conditions on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Size, Tensor

__all__ = ["Batch", "Source"]


@runtime_checkable
class Source(Protocol):
    """Data that need not be in memory: anything with a length that can be indexed with an integer tensor."""

    @property
    def shape(self) -> Size:
        """(N, *event shape), as of a tensor."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """The type of the tensors that indexing gives."""
        ...

    def __len__(self) -> int:
        """N."""
        ...

    def __getitem__(self, index: Tensor) -> Tensor:
        """The data points of an integer tensor (B,), shape (B, *event shape), on the CPU."""
        ...

    def batches(self, order: Iterable[Tensor]) -> Iterator[Tensor]:
        """`self[index]` for each index in turn; may read ahead."""
        ...


@dataclass(frozen=True)
class Batch:
    """Data points x and, for a conditional model, the condition c of each.

    Args:
        x: data, shape (N, *event shape), a tensor or a `Source`.
        c: condition, shape (N, C); None: the model conditions on nothing.
    """

    x: Tensor | Source
    c: Tensor | None = None

    @classmethod
    def of(cls, data: Tensor | Source | Batch) -> Batch:
        """A batch as it is, anything else as a batch without condition."""
        return data if isinstance(data, Batch) else cls(data)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: Tensor) -> Batch:
        """The data points of an integer tensor (B,)."""
        return Batch(self.x[index], None if self.c is None else self.c[index])

    @property
    def args(self) -> tuple[Tensor, ...]:
        """What model and guide are called with: (x,) or (x, c)."""
        x: Tensor = self.x if isinstance(self.x, Tensor) else self.x[torch.arange(len(self.x))]
        return (x,) if self.c is None else (x, self.c)

    def to(self, device: torch.device) -> Batch:
        """The same on a device; a source stays where it is, and what is read of it goes there."""
        x = self.x.to(device) if isinstance(self.x, Tensor) else self.x
        return Batch(x, None if self.c is None else self.c.to(device))

    def split(self, rows: int) -> Iterator[Batch]:
        """Consecutive batches of so many data points; the last one may be smaller."""
        if isinstance(self.x, Tensor):
            parts = self.x.split(rows)
            conditions = (None,) * len(parts) if self.c is None else self.c.split(rows)
            yield from (Batch(x, c) for x, c in zip(parts, conditions, strict=True))
        else:
            yield from self.batches(torch.arange(len(self)).split(rows))

    def batches(self, order: Iterable[Tensor]) -> Iterator[Batch]:
        """The batches of each index in turn."""
        if isinstance(self.x, Tensor):
            yield from (self[index] for index in order)
            return
        indices = list(order)
        for index, x in zip(indices, self.x.batches(indices), strict=True):
            yield Batch(x, None if self.c is None else self.c[index])
