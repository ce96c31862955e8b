"""Block-wise access to data that may not fit into memory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Size, Tensor

from flowvae.core.memory import check_memory
from flowvae.core.progress import bar
from flowvae.data.batch import Source, redrawn

__all__ = ["Flattened", "blocks", "first", "preview", "to_tensor"]

VALUES = 2**22  # largest number of values in a block of a source


def blocks(x: Tensor | Source) -> Iterator[Tensor]:
    """Consecutive blocks of data (N, *shape): a tensor as one block, a source in blocks of bounded memory."""
    if isinstance(x, Tensor):
        yield x
    else:
        rows = max(1, VALUES // max(1, math.prod(x.shape[1:])))
        order = torch.arange(len(x)).split(rows)
        yield from bar("reading data", "block", len(order), x.batches(order))


def first(x: Tensor | Source, count: int) -> Tensor:
    """The first data points (at most `count`), shape (n, *shape)."""
    return x[:count] if isinstance(x, Tensor) else x[torch.arange(min(count, len(x)))]


def preview(x: Tensor | Source, count: int = 10_000) -> Tensor:
    """Data for a figure, shape (n, *shape): a tensor unchanged, of a source the first `count` data points."""
    return x if isinstance(x, Tensor) else first(x, count)


def to_tensor(x: Tensor | Source, what: str) -> Tensor:
    """All data points as a tensor, shape (N, *shape).

    Args:
        x: the data.
        what: what needs the tensor, for the error message.

    Raises:
        FlowvaeError: for a source larger than memory.
    """
    if isinstance(x, Tensor):
        return x
    check_memory(what, x.dtype.itemsize * math.prod(x.shape), "use fewer data points, such as a part of the data set")
    return torch.cat(list(blocks(x)))


@dataclass(frozen=True)
class Flattened:
    """A source whose data points (*shape) are read as rows (D,)."""

    source: Source

    @property
    def shape(self) -> Size:
        return Size((len(self), math.prod(self.source.shape[1:])))

    @property
    def dtype(self) -> torch.dtype:
        return self.source.dtype

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: Any) -> Tensor:
        found = self.source[index]
        return found.flatten(found.ndim - len(self.source.shape) + 1)

    def batches(self, order: Iterable[Tensor]) -> Iterator[Tensor]:
        """`self[index]` for each index in turn."""
        for x in self.source.batches(order):
            yield x.flatten(1)

    def redrawn(self, seed: int) -> Flattened:
        """The same rows, with random values redrawn from a seed."""
        source = redrawn(self.source, seed)
        return self if source is self.source else replace(self, source=source)
