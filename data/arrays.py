"""A user's own data, from NumPy files."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowvae.core.errors import FlowvaeError, nearest, shown, shown_path
from flowvae.core.seeds import derive
from flowvae.data.dataset import SPLITS, Dataset, DataSpec, check_columns_agree, check_values
from flowvae.data.likelihoods import BernoulliLikelihood, GaussianLikelihood, LikelihoodSpec, parse_likelihood
from flowvae.data.precision import column_offsets
from flowvae.data.reading import data_path, read_arrays

__all__ = ["Arrays"]

LABELS = {"labels": "train", **{f"labels_{split}": split for split in SPLITS}}  # of which split an array is
KNOWN = (*SPLITS, *LABELS)
REMEDY = (
    "write one with np.savez(PATH, train=ARRAY). NumPy reads a table of text by "
    "np.loadtxt(FILE, delimiter=',', skiprows=1)."
)


@dataclass(frozen=True)
class Arrays(DataSpec):
    """A `.npz` with `train` and optionally `valid` and `test`, or a `.npy` with one array.

    Arrays have shape (N, ...); everything after the first axis is flattened, and (N, H, W) are images. A
    split that is not in the file is drawn from `train`, 15 % each, by the run's seed.

    A split in the file may have labels, shape (N,), one number a row: `labels_train` (or `labels`), `labels_valid`,
    `labels_test`. Rows that are drawn from `train` keep its labels.

    Models compute in float32. Where that has too few digits for a real-valued column, such as seconds since 1970, the
    column's median is subtracted in the file's own type: densities stay those of the original numbers,
    `Dataset.offset` says what was subtracted, and `Dataset.original` adds it again.

    Args:
        path: the file; `~` is the home directory.
        likelihood: bernoulli, binomial:TOTAL, gaussian, gaussian:SCALE or gaussian:shared.
    """

    title: ClassVar[str] = "your own .npz or .npy"

    path: Path
    likelihood: LikelihoodSpec

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", data_path("data.path", self.path, "the path of a .npz or .npy"))
        if isinstance(self.likelihood, str):
            object.__setattr__(self, "likelihood", parse_likelihood(self.likelihood))
        if not isinstance(self.likelihood, LikelihoodSpec):
            raise FlowvaeError(
                f"data.likelihood = {shown(self.likelihood)}: must be bernoulli, binomial:TOTAL, gaussian, "
                "gaussian:SCALE or gaussian:shared."
            )

    def load(self, seed: int) -> Dataset:
        where = shown_path(self.path)
        arrays = _read(self.path)
        shape = arrays["train"].shape[1:]
        rows = {split: _rows(f"{where}, {split}", arrays[split]) for split in SPLITS if split in arrays}
        labels = {split: _labels(where, name, arrays[name], rows) for name, split in LABELS.items() if name in arrays}
        drawn = [split for split in ("valid", "test") if split not in rows]
        share = _share(len(rows["train"]), drawn)
        check_columns_agree(where, rows)
        # before rows are drawn: the place that is named is that in the file
        data, offset = _cast(where, rows, self.likelihood)
        for split, x in data.items():
            check_values(f"{where}, {split}", x, self.likelihood)
        self.likelihood.check(where, data)
        self.likelihood.build(data["train"])  # refuses a constant column, whatever is made of the data later
        _divide(data, labels, drawn, share, derive(seed, "split"))
        return Dataset(
            data["train"],
            data["valid"],
            data["test"],
            likelihood=self.likelihood,
            name=self.path.name,
            preprocessing=_moved(offset),
            split=f"{', '.join(drawn)} drawn from train by seed {seed}" if drawn else "as in the file",
            labels=labels or None,
            image_shape=(shape[0], shape[1]) if len(shape) == 2 else _square(shape, self.likelihood),
            offset=offset,
        )


def _read(path: Path) -> dict[str, NDArray[Any]]:
    where = shown_path(path)
    arrays = read_arrays(f"data.path = {where}", path, REMEDY, single="train")
    for name in arrays:
        if name not in KNOWN:
            raise FlowvaeError(f"{where}: array {shown(name)}: {nearest(name, KNOWN)}")
    if "train" not in arrays:
        raise FlowvaeError(f"{where}: holds no array 'train' (it has: {shown(', '.join(arrays) or 'none')}); add it.")
    if "labels" in arrays and "labels_train" in arrays:
        raise FlowvaeError(f"{where}: arrays 'labels' and 'labels_train' are both the labels of train; keep one.")
    return arrays


def _rows(where: str, array: NDArray[Any]) -> NDArray[np.floating[Any]]:
    """Rows (N, D) in a floating-point type that holds what the file does."""
    if array.dtype.kind not in "biuf":
        raise FlowvaeError(
            f"{where}: values of type {shown(array.dtype)}; must be real numbers. Leave out names and headings, and "
            "number the categories of a column."
        )
    if array.ndim < 2:
        raise FlowvaeError(
            f"{where}: shape {array.shape}; must be (N, D) or images (N, H, W). One column is array[:, None]."
        )
    if not array.size:
        raise FlowvaeError(f"{where}: empty, shape {array.shape}; every split needs data.")
    large = array.dtype.kind in "iu" and max(int(array.max()), -int(array.min())) > 2**53
    kind = np.longdouble if large else np.result_type(array.dtype, np.float32)
    return array.astype(kind).reshape(len(array), math.prod(array.shape[1:]))


def _labels(where: str, name: str, array: NDArray[Any], rows: dict[str, NDArray[Any]]) -> Tensor:
    """Labels (N,) of one split, whole numbers as int64 and others as float64."""
    split = LABELS[name]
    if split not in rows:
        raise FlowvaeError(f"{where}: has {name} and no {split}; add that split, or leave its labels out.")
    if array.dtype.kind not in "biuf":
        raise FlowvaeError(
            f"{where}, {name}: values of type {shown(array.dtype)}; must be numbers, such as those that "
            "np.unique(labels, return_inverse=True)[1] gives to names."
        )
    if array.shape != (len(rows[split]),):
        raise FlowvaeError(
            f"{where}, {name}: shape {array.shape}; must be ({len(rows[split])},), one a row of {split}."
        )
    kind = np.float64 if array.dtype.kind == "f" else np.int64
    with np.errstate(over="ignore"):
        held = array.astype(kind)
    bad = ~np.isfinite(held) if kind is np.float64 else held != array
    if bad.any():
        row = int(bad.argmax())
        raise FlowvaeError(
            f"{where}, {name}: value {array[row]} at row {row}; must be finite, and below 2**63. Number the classes, "
            "a missing one too."
        )
    return torch.from_numpy(held)


def _cast(
    where: str, rows: dict[str, NDArray[Any]], likelihood: LikelihoodSpec
) -> tuple[dict[str, Tensor], Tensor | None]:
    """Rows in the networks' type, and what was subtracted from their columns before."""
    kind: type[np.floating[Any]] = np.float64 if torch.get_default_dtype() == torch.float64 else np.float32
    offsets = np.zeros(rows["train"].shape[1])
    if isinstance(likelihood, GaussianLikelihood):
        offsets = column_offsets(rows["train"], likelihood.scale, likelihood.shared, kind)
    moved = offsets.any()
    data = {}
    for split, exact in rows.items():
        if moved:
            exact = exact - offsets
        with np.errstate(over="ignore"):
            held = exact.astype(kind)
        beyond = np.isinf(held) & np.isfinite(exact)
        if beyond.any():
            row, column = (int(i) for i in np.argwhere(beyond)[0])
            raise FlowvaeError(
                f"{where}, {split}: value {rows[split][row, column]:g} at row {row}, column {column}; must be below "
                f"{np.finfo(kind).max:.2g}. Remove the outlier, or give the column in larger units."
            )
        data[split] = torch.from_numpy(held)
    train, exact = data["train"], rows["train"]
    lost = torch.from_numpy((exact != exact[0]).any(0)) & (train == train[0]).all(0)
    if lost.any():
        column = int(lost.nonzero()[0])
        raise FlowvaeError(
            f"{where}, train: column {column} varies by less than float32 can hold; give it in smaller units."
        )
    return data, torch.from_numpy(offsets) if moved else None


def _moved(offset: Tensor | None) -> str:
    """What was done to the values, in words."""
    if offset is None:
        return "none"
    columns = offset.nonzero().flatten().tolist()
    some = ", ".join(f"{offset[column]:.17g} from column {column}" for column in columns[:3])
    return f"in the file's own type subtracted {some}" + (f" and {len(columns) - 3} more" if len(columns) > 3 else "")


def _share(count: int, drawn: list[str]) -> int:
    """How many of the rows of train become each split that is missing."""
    share = math.ceil(0.15 * count)
    if drawn and count - share * len(drawn) < 2:
        raise FlowvaeError(
            f"train has {count} {'row' if count == 1 else 'rows'}: too few to draw {' and '.join(drawn)} from; "
            "give those splits in the file."
        )
    return share


def _divide(data: dict[str, Tensor], labels: dict[str, Tensor], drawn: list[str], share: int, seed: int) -> None:
    """Move rows of train into the splits that are missing, with their labels."""
    if not drawn:
        return
    order = torch.randperm(len(data["train"]), generator=torch.Generator().manual_seed(seed))
    for part in (data, labels):
        if "train" in part:
            rows = part["train"]
            for i, name in enumerate(drawn):
                part[name] = rows[order[i * share : (i + 1) * share]]
            part["train"] = rows[order[share * len(drawn) :]]


def _square(shape: tuple[int, ...], likelihood: LikelihoodSpec) -> tuple[int, int] | None:
    """Flat rows of a square number of bits are taken for an image in figures."""
    side = math.isqrt(shape[0]) if len(shape) == 1 else 0
    return (
        (side, side) if side >= 4 and side * side == shape[0] and isinstance(likelihood, BernoulliLikelihood) else None
    )
