"""Arrays that are larger than memory, from `.npy` files that are read batch by batch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from flowvae.core.errors import FlowvaeError, shown_path
from flowvae.core.parts import LikelihoodSpec
from flowvae.data.dataset import SPLITS, Dataset, DataSpec
from flowvae.data.files.reading import data_path, map_array, read_arrays
from flowvae.data.images.geometry import AS_THEY_ARE
from flowvae.data.images.image_data import prepare_values
from flowvae.data.images.preprocessing import OptionalPreprocessing
from flowvae.data.preparation import Part

__all__ = ["Mapped"]

REMEDY = "write one with np.save(PATH, array), or piece by piece with np.lib.format.open_memmap."


@dataclass(frozen=True)
class Mapped(OptionalPreprocessing, DataSpec, name="mapped"):
    """A memory-mapped `.npy`, shape (N, D), (N, H, W) or (N, C, H, W), of any real type.

    Only the current batches are kept in memory. Splits without a file are drawn from the first file, 15 % each, by the
    run's seed. Before training, the files are read several times, block by block, to check the values and to compute
    their units and checksum.

    Args:
        path: the file to train on; `~` is the home directory.
        likelihood: likelihood of the values, in text form; optional with `values`, which have a default likelihood.
        valid: the file of the validation split; none: drawn.
        test: the file of the test split; none: drawn.
        labels: a `.npy` of class labels (N,) of the first file, numbers or names; none: no labels.
    """

    title: ClassVar[str] = "your own .npy, larger than memory"

    path: Path
    likelihood: LikelihoodSpec | None = None
    valid: Path | None = None
    test: Path | None = None
    labels: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("path", "valid", "test", "labels"):
            if (value := getattr(self, name)) is not None or name == "path":
                object.__setattr__(self, name, data_path(f"data.{name}", value, "the path of a .npy"))
        self.keep_likelihood()
        if (self.resize, self.crop, self.colour) != (None, None, AS_THEY_ARE):
            raise FlowvaeError(
                "Mapped: resize, crop and colour need images in memory; use data:arrays, or resize first."
            )

    def load(self, seed: int) -> Dataset:
        files = {split: path for split, path in zip(SPLITS, (self.path, self.valid, self.test), strict=True) if path}
        arrays = {
            split: map_array(f"data.{'path' if split == 'train' else split} = {shown_path(path)}", path, REMEDY)
            for split, path in files.items()
        }
        labels = None
        if self.labels is not None:
            labels = read_arrays(f"data.labels = {shown_path(self.labels)}", self.labels, REMEDY, "labels").get(
                "labels"
            )
        parts = {split: Part(x, labels if split == "train" else None) for split, x in arrays.items()}
        return prepare_values(shown_path(self.path), parts, self, seed, name=self.path.name, split="as in the files")
