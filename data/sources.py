"""Sources: data that are read batch by batch, from a memory-mapped array, and parts of other sources."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Size, Tensor

from flowvae.data.access import VALUES
from flowvae.data.batch import Source

__all__ = ["MappedArray", "Selected", "array_blocks", "read_rows"]

ROWS = 256


class MappedArray:
    """An array as a source, such as `np.load("large.npy", mmap_mode="r")`.

    What is read of it is converted to torch's default type, and the pages of the file are released again, so that the
    process does not grow with the file.

    Args:
        array: (N, *event shape), of real numbers of any type.
        offset: what to subtract before the cast, of the event shape.
    """

    def __init__(self, array: NDArray[Any], offset: NDArray[np.float64] | None = None) -> None:
        self.array = array
        self.offset = offset
        self.shape = Size(array.shape)
        self.dtype = torch.get_default_dtype()

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, index: Tensor) -> Tensor:
        rows = read_rows(self.array, index.numpy())
        if self.offset is not None:
            # whole numbers above 2^53 have no exact float64
            rows = (rows.astype(np.longdouble) if rows.dtype.kind in "iu" else rows) - self.offset
        with np.errstate(over="ignore"):  # infinities are refused with their place
            return torch.from_numpy(rows.astype(torch.empty(0, dtype=self.dtype).numpy().dtype))

    def batches(self, order: Iterable[Tensor]) -> Iterator[Tensor]:
        """`self[index]` for each index in turn."""
        return (self[index] for index in order)


def array_blocks(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Consecutive blocks of bounded memory of an array (N, …), as they are; pages of a mapped one are released."""
    rows = max(1, VALUES // max(1, array[:1].size))
    for start in range(0, len(array), rows):
        yield np.asarray(array[start : start + rows])
        _release(array)


def read_rows(array: NDArray[Any], index: NDArray[np.integer[Any]]) -> NDArray[Any]:
    """The rows of an index, as they are; pages of a mapped array are released.

    A row brings the pages around it into memory, so few are read at a time.
    """
    rows = np.empty((len(index), *array.shape[1:]), array.dtype)
    for start in range(0, len(index), ROWS):
        rows[start : start + ROWS] = array[index[start : start + ROWS]]
        _release(array)
    return rows


def _release(array: NDArray[Any]) -> None:
    """Give the pages that were read back to the system, which may keep them in its own cache."""
    mapped = getattr(array, "_mmap", None)
    if mapped is not None and getattr(array, "mode", "") == "r" and hasattr(mmap, "MADV_DONTNEED"):
        with suppress(OSError, ValueError):
            mapped.madvise(mmap.MADV_DONTNEED)


@dataclass(frozen=True, eq=False)
class Selected:
    """Some data points of a source.

    Args:
        source: the source.
        index: their numbers, an integer tensor.
    """

    source: Source
    index: Tensor

    @property
    def shape(self) -> Size:
        return Size((len(self.index), *self.source.shape[1:]))

    @property
    def dtype(self) -> torch.dtype:
        return self.source.dtype

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: Tensor) -> Tensor:
        return self.source[self.index[index]]

    def batches(self, order: Iterable[Tensor]) -> Iterator[Tensor]:
        """`self[index]` for each index in turn."""
        return self.source.batches(self.index[index] for index in order)
