"""A user's own data, from NumPy files."""

from __future__ import annotations

import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from flowvae.data.dataset import Dataset, DataSpec, check_values
from flowvae.data.likelihoods import Bernoulli, LikelihoodSpec, parse_likelihood
from flowvae.errors import FlowvaeError, nearest
from flowvae.seeds import derive

__all__ = ["Arrays"]

KNOWN = ("train", "valid", "test", "labels")


@dataclass(frozen=True)
class Arrays(DataSpec):
    """A `.npz` with `train` and optionally `valid`, `test`, `labels` (of train), or a `.npy` with one array.

    Arrays have shape (N, ...); everything after the first axis is flattened, and (N, H, W) are images. A
    split that is not in the file is drawn from `train`, 15 % each, by the run's seed.

    Args:
        path: the file.
        likelihood: bernoulli, binomial:TOTAL, gaussian or gaussian:SCALE.
    """

    title: ClassVar[str] = "your own .npz or .npy"

    path: Path
    likelihood: LikelihoodSpec

    def __post_init__(self) -> None:
        if not isinstance(self.path, str | Path):
            raise FlowvaeError(f"data.path = {self.path!r}: must be the path of a .npz or .npy.")
        object.__setattr__(self, "path", Path(self.path))
        if isinstance(self.likelihood, str):
            object.__setattr__(self, "likelihood", parse_likelihood(self.likelihood))
        if not isinstance(self.likelihood, LikelihoodSpec):
            raise FlowvaeError(
                f"data.likelihood = {self.likelihood!r}: must be bernoulli, binomial:TOTAL, gaussian or gaussian:SCALE."
            )

    def load(self, seed: int) -> Dataset:
        arrays = _read(self.path)
        labels = arrays.pop("labels", None)
        if labels is not None and labels.dtype.kind not in "biuf":
            raise FlowvaeError(
                f"{self.path}, labels: values of type {labels.dtype}; must be numbers, such as those that "
                "np.unique(labels, return_inverse=True)[1] gives to names."
            )
        if labels is not None and labels.shape != arrays["train"].shape[:1]:
            raise FlowvaeError(
                f"{self.path}, labels: shape {labels.shape}; must be ({len(arrays['train'])},), one a row of train."
            )
        shape = arrays["train"].shape[1:]
        data = {name: _rows(self.path, name, array) for name, array in arrays.items()}
        for name, rows in data.items():  # before rows are moved: the place that is named is that in the file
            check_values(f"{self.path.name}, {name}", rows, self.likelihood)
        marks = {} if labels is None else {"train": torch.as_tensor(labels)}
        drawn = [name for name in ("valid", "test") if name not in data]
        _divide(data, marks, drawn, derive(seed, "split"))
        origin = f"{', '.join(drawn)} drawn from train by seed {seed}" if drawn else "as in the file"
        return Dataset(
            data["train"],
            data["valid"],
            data["test"],
            likelihood=self.likelihood,
            name=self.path.name,
            preprocessing="none",
            split=origin,
            labels=marks or None,
            image_shape=(shape[0], shape[1]) if len(shape) == 2 else _square(shape, self.likelihood),
        )


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FlowvaeError(f"data.path = {str(path)!r}: no such file; give a .npz or .npy.")
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            arrays = dict(loaded) if isinstance(loaded, np.lib.npyio.NpzFile) else {"train": loaded}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile):  # NumPy's text says how to unpickle what it cannot read
        raise FlowvaeError(
            f"data.path = {str(path)!r}: not a readable .npz or .npy of plain numbers; write one with "
            "np.savez(PATH, train=ARRAY). NumPy reads a table of text by np.loadtxt(FILE, delimiter=',', skiprows=1)."
        ) from None
    unknown = [name for name in arrays if name not in KNOWN]
    if unknown:
        raise FlowvaeError(f"{path}: array {unknown[0]!r}: {nearest(unknown[0], KNOWN)}")
    if "train" not in arrays:
        raise FlowvaeError(f"{path}: holds no array 'train' (it has: {', '.join(arrays) or 'none'}); add it.")
    return arrays


def _rows(path: Path, name: str, array: Any) -> Tensor:
    if array.dtype.kind not in "biuf":
        raise FlowvaeError(
            f"{path}, {name}: values of type {array.dtype}; must be real numbers. Leave out names and headings, and "
            "number the categories of a column."
        )
    if array.ndim < 2:
        raise FlowvaeError(
            f"{path}, {name}: shape {array.shape}; must be (N, D) or images (N, H, W). One column is array[:, None]."
        )
    return torch.as_tensor(np.asarray(array, dtype=np.float32)).reshape(len(array), math.prod(array.shape[1:]))


def _divide(data: dict[str, Tensor], labels: dict[str, Tensor], drawn: list[str], seed: int) -> None:
    """Move rows of train into the splits that are missing, with their labels."""
    if not drawn:
        return
    count = len(data["train"])
    share = math.ceil(0.15 * count)
    if count - share * len(drawn) < 2:
        raise FlowvaeError(
            f"train has {count} {'row' if count == 1 else 'rows'}: too few to draw {' and '.join(drawn)} from; "
            "give those splits in the file."
        )
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    for part in (data, labels):
        if "train" in part:
            rows = part["train"]
            for i, name in enumerate(drawn):
                part[name] = rows[order[i * share : (i + 1) * share]]
            part["train"] = rows[order[share * len(drawn) :]]


def _square(shape: tuple[int, ...], likelihood: LikelihoodSpec) -> tuple[int, int] | None:
    """Flat rows of a square number of bits are taken for an image in figures."""
    side = math.isqrt(shape[0]) if len(shape) == 1 else 0
    return (side, side) if side >= 4 and side * side == shape[0] and isinstance(likelihood, Bernoulli) else None
