"""A user's own data, from NumPy files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from numpy.typing import NDArray

from flowvae.core.errors import FlowvaeError, nearest, shown, shown_path
from flowvae.core.parts import LikelihoodSpec
from flowvae.data.dataset import SPLITS, Dataset, DataSpec
from flowvae.data.files.reading import data_path, read_arrays
from flowvae.data.images.image_data import prepare_values
from flowvae.data.images.preprocessing import OptionalPreprocessing
from flowvae.data.preparation import Part

__all__ = ["Arrays"]

LABELS = {"labels": "train", **{f"labels_{split}": split for split in SPLITS}}  # the split of an array of labels
KNOWN = (*SPLITS, *LABELS)
REMEDY = (
    "write one with np.savez(PATH, train=ARRAY). NumPy reads a table of text by "
    "np.loadtxt(FILE, delimiter=',', skiprows=1)."
)


@dataclass(frozen=True)
class Arrays(OptionalPreprocessing, DataSpec, name="arrays"):
    """A `.npz` with `train` and optionally `valid` and `test`, or a `.npy` with one array.

    | array | data points |
    | --- | --- |
    | (N, D) | rows of shape (D,) |
    | (N, H, W) | images of shape (1, H, W) |
    | (N, C, H, W) | of shape (C, H, W); images, if C is 1 or 3 |

    Splits that are not in the file are drawn from `train`, 15 % each, by the run's seed.

    A split in the file may have labels, shape (N,), numbers or names: `labels_train` (or `labels`), `labels_valid`,
    `labels_test`. Names are numbered in sorted order. Data points that are drawn from `train` keep their labels.

    Models compute in float32. If that has too few digits for real-valued data, such as seconds since 1970, the median
    is subtracted in the file's own type. This does not change densities; `Dataset.offset` is the subtracted offset, and
    `Dataset.original` adds it again.

    Images with intensities 0..255 may be preprocessed: `Arrays("images.npz", values="dynamic")`.

    Args:
        path: the file; `~` is the home directory.
        likelihood: likelihood of the values, in text form, such as bernoulli, binomial:TOTAL or gaussian; optional with
            `values`, which have a default likelihood.
    """

    title: ClassVar[str] = "your own .npz or .npy"

    path: Path
    likelihood: LikelihoodSpec | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "path", data_path("data.path", self.path, "the path of a .npz or .npy"))
        self.keep_likelihood()

    def load(self, seed: int) -> Dataset:
        parts = {split: Part(x, labels) for split, (x, labels) in _read(self.path).items()}
        return prepare_values(shown_path(self.path), parts, self, seed, name=self.path.name, split="as in the file")


def _read(path: Path) -> dict[str, tuple[NDArray[Any], NDArray[Any] | None]]:
    """Data and labels by split."""
    where = shown_path(path)
    arrays = read_arrays(f"data.path = {where}", path, REMEDY, single="train")
    for name in arrays:
        if name not in KNOWN:
            raise FlowvaeError(f"{where}: array {shown(name)}: {nearest(name, KNOWN)}")
    if "train" not in arrays:
        raise FlowvaeError(f"{where}: holds no array 'train' (it has: {shown(', '.join(arrays) or 'none')}); add it.")
    if "labels" in arrays and "labels_train" in arrays:
        raise FlowvaeError(f"{where}: arrays 'labels' and 'labels_train' are both the labels of train; keep one.")
    labels = {LABELS[name]: arrays[name] for name in LABELS if name in arrays}
    for split in labels:
        if split not in arrays:
            raise FlowvaeError(f"{where}: has labels_{split} and no {split}; add that split, or leave its labels out.")
    return {split: (arrays[split], labels.get(split)) for split in SPLITS if split in arrays}
