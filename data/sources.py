"""Sources that are read batch by batch: memory-mapped arrays, and subsets of other sources."""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Size, Tensor

from flowvae.core.progress import bar
from flowvae.data.access import VALUES
from flowvae.data.batch import Source, positions, redrawn

__all__ = ["MappedArray", "Selected", "apart", "array_blocks", "read_rows", "together"]

ROWS = 256  # rows that are read before their pages are released


class MappedArray:
    """An array as a source, such as `np.load("large.npy", mmap_mode="r")`.

    Values are converted to torch's default type as they are read. Pages of the file are released after reading, so
    memory use does not grow with the file. A thread reads ahead, several batches together and in the order of the
    file; this takes memory for 2²³ values, or for two batches if they are larger.

    Args:
        array: data (N, *event shape), of real numbers of any type.
        offset: offset to subtract before the cast, of the event shape.
    """

    def __init__(self, array: NDArray[Any], offset: NDArray[np.float64] | None = None) -> None:
        self.array = array
        self.offset = offset
        self.shape = Size(array.shape)
        self.dtype = torch.get_default_dtype()

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, index: Any) -> Tensor:
        index = positions(index, len(self))
        if not index.ndim:
            return self[index[None]][0]
        rows = read_rows(self.array, index.numpy())
        if self.offset is not None:
            # whole numbers above 2^53 have no exact float64
            rows = (rows.astype(np.longdouble) if rows.dtype.kind in "iu" else rows) - self.offset
        with np.errstate(over="ignore"):  # infinities are refused later, with their position
            return torch.from_numpy(rows.astype(torch.empty(0, dtype=self.dtype).numpy().dtype))

    def batches(self, order: Iterable[Tensor]) -> Iterator[Tensor]:
        """`self[index]` for each index in turn, read ahead."""
        with ThreadPoolExecutor(1) as reader:
            ahead: tuple[Future[Tensor], list[Tensor]] | None = None
            for group in together(order, math.prod(self.shape[1:]), VALUES):
                reading = reader.submit(self.__getitem__, torch.cat(group))
                if ahead is not None:
                    yield from apart(ahead[0].result(), ahead[1])
                ahead = reading, group
            if ahead is not None:
                yield from apart(ahead[0].result(), ahead[1])


def array_blocks(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Consecutive blocks of an array (N, …) in its own type, of bounded size; releases pages of a mapped array."""
    rows = max(1, VALUES // max(1, array[:1].size))
    starts = range(0, len(array), rows)
    for start in bar("reading data", "block", len(starts), starts):
        yield np.asarray(array[start : start + rows])
        _release(array)


def read_rows(array: NDArray[Any], index: NDArray[np.integer[Any]]) -> NDArray[Any]:
    """The rows (B, …) of an index (B,) in the array's own type; releases pages of a mapped array.

    Rows are read in the order of the file, so that each page is loaded once. Reading a row also loads the pages around
    it, so only a few rows are read at a time.
    """
    rows = np.empty((len(index), *array.shape[1:]), array.dtype)
    order = np.argsort(index)
    for start in range(0, len(index), ROWS):
        some = order[start : start + ROWS]
        rows[some] = array[index[some]]
        _release(array)
    return rows


def together(order: Iterable[Tensor], values: int, most: int) -> Iterator[list[Tensor]]:
    """Group consecutive indices that are read together.

    Args:
        order: indices, each (B,).
        values: number of values in a data point.
        most: largest number of values in a group; an index with more forms its own group.
    """
    group: list[Tensor] = []
    rows = 0
    for index in order:
        if group and (rows + len(index)) * values > most:
            yield group
            group, rows = [], 0
        group.append(index)
        rows += len(index)
    if group:
        yield group


def apart(rows: Tensor, group: list[Tensor]) -> Iterator[Tensor]:
    """Split the rows of a group into its batches, copied so that one batch does not keep the whole group in memory."""
    if len(group) == 1:
        yield rows
    else:
        yield from (x.clone() for x in rows.split([len(index) for index in group]))


def _release(array: NDArray[Any]) -> None:
    """Release the pages read so far; the system may keep them in its cache."""
    mapped = getattr(array, "_mmap", None)
    if mapped is not None and getattr(array, "mode", "") == "r" and hasattr(mmap, "MADV_DONTNEED"):
        with suppress(OSError, ValueError):
            mapped.madvise(mmap.MADV_DONTNEED)


@dataclass(frozen=True, eq=False)
class Selected:
    """A subset of the data points of a source.

    Args:
        source: the source.
        index: positions of the data points, an integer tensor (M,).
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

    def __getitem__(self, index: Any) -> Tensor:
        return self.source[self.index[index]]

    def batches(self, order: Iterable[Tensor]) -> Iterator[Tensor]:
        """`self[index]` for each index in turn."""
        return self.source.batches(self.index[index] for index in order)

    def redrawn(self, seed: int) -> Selected:
        """The same data points, with random values redrawn from a seed."""
        source = redrawn(self.source, seed)
        return self if source is self.source else replace(self, source=source)
