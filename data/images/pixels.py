"""Images stored as intensities and converted to a model's values when they are read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Size, Tensor

from flowvae.data.batch import Source, positions
from flowvae.data.images.noise import random_int32
from flowvae.data.images.preprocessing import Preprocessing
from flowvae.data.sources import Selected

__all__ = ["Pixels"]

BLOCK = 2**17  # values converted at a time; their random numbers fit into a processor's cache


@dataclass(frozen=True, eq=False)
class Pixels:
    """A `Source` of images (N, C, H, W), or rows (N, D), that converts intensities 0..255 to values when read.

    Random numbers depend only on the seed, the number of the image and the position in it, so reading gives the same
    values each time, in any order. `redrawn` gives the same images with other random numbers.

    Args:
        intensities: numbers from 0 to 255, bytes or floating-point, a tensor or a source.
        how: preprocessing that converts intensities to values.
        seed: random seed of the random numbers.
        numbers: numbers of the images, (N,) of int64; by default 0, 1, ….
        flips: seed of the random flips of training images; None: no flips.
    """

    intensities: Tensor | Source
    how: Preprocessing
    seed: int
    numbers: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    flips: int | None = None

    def __post_init__(self) -> None:
        if not len(self.numbers):
            object.__setattr__(self, "numbers", torch.arange(len(self.intensities)))

    @property
    def shape(self) -> Size:
        return Size(self.intensities.shape)

    @property
    def dtype(self) -> torch.dtype:
        return torch.get_default_dtype()

    def __len__(self) -> int:
        return len(self.intensities)

    def __getitem__(self, index: Any) -> Tensor:
        index = positions(index, len(self))
        if not index.ndim:
            return self[index[None]][0]
        if isinstance(self.intensities, Tensor):
            index = index.to(self.intensities.device)
        return self._values(self.intensities[index], index)

    def batches(self, order: Iterable[Tensor]) -> Iterator[Tensor]:
        """`self[index]` for each index in turn."""
        if isinstance(self.intensities, Tensor):
            yield from (self[index] for index in order)
        else:
            indices = list(order)
            for index, x in zip(indices, self.intensities.batches(indices), strict=True):
                yield self._values(x, index)

    def redrawn(self, seed: int) -> Pixels:
        """The same images with flips and values of another seed; values that are drawn only once do not change."""
        new = self if not self.how.draws_anew else replace(self, seed=seed)
        return replace(new, flips=seed + 1) if self.how.flips else new

    def part(self, index: Tensor) -> Pixels:
        """The images at positions (M,), with unchanged values."""
        some = self.intensities[index] if isinstance(self.intensities, Tensor) else Selected(self.intensities, index)
        return replace(self, intensities=some, numbers=self.numbers[index])

    def to(self, device: torch.device) -> Pixels:
        """The same images with their intensities on a device, where values are drawn; a source is not moved."""
        if not isinstance(self.intensities, Tensor):
            return self
        return replace(self, intensities=self.intensities.to(device), numbers=self.numbers.to(device))

    def _values(self, x: Tensor, index: Tensor) -> Tensor:
        """Convert the intensities (B, *event shape) of the images at positions `index` (B,), in blocks."""
        rows = max(1, BLOCK // max(1, self.shape[1:].numel()))
        if len(x) <= rows:
            return self._block(x, self.numbers[index])
        values = torch.empty(x.shape, dtype=self.dtype, device=x.device)
        for start in range(0, len(x), rows):
            some = slice(start, start + rows)
            values[some] = self._block(x[some], self.numbers[index[some]])
        return values

    def _block(self, x: Tensor, numbers: Tensor) -> Tensor:
        noise = None
        if self.how.is_random:
            noise = random_int32(self.seed, numbers, self.shape[1:].numel()).reshape(x.shape)
        values = self.how.to_values(x, noise).to(self.dtype)
        if self.flips is None:
            return values
        flipped = random_int32(self.flips, numbers, 1) < 0
        return torch.where(flipped[(...,) + (None,) * (x.ndim - 2)], values.flip(-1), values)
