"""Class labels by split: numbers as they are, names numbered in sorted order."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowvae.core.errors import FlowvaeError, shown

if TYPE_CHECKING:
    from flowvae.data.preparation import Part

__all__ = ["is_text", "labels_of", "number_names", "warn_of_unseen"]


def is_text(values: Any) -> bool:
    """Whether labels are names: an array or a sequence of texts."""
    if isinstance(values, np.ndarray):
        return values.dtype.kind in "US" or (values.dtype.kind == "O" and all(isinstance(v, str) for v in values.flat))
    return isinstance(values, list | tuple) and bool(values) and all(isinstance(v, str) for v in values)


def number_names(labels: Mapping[str, Any]) -> tuple[dict[str, np.ndarray[Any, Any]], tuple[str, ...]]:
    """Number names in sorted order; returns the numbers by split, and the sorted names.

    >>> number_names({"train": ["dog", "cat"], "test": ["dog"]})
    ({'train': array([1, 0]), 'test': array([1])}, ('cat', 'dog'))
    """
    texts = {split: np.asarray(values) for split, values in labels.items()}
    texts = {
        s: np.char.decode(t, "utf-8", "replace") if t.dtype.kind == "S" else t.astype(str) for s, t in texts.items()
    }
    names, numbers = np.unique(np.concatenate([t.reshape(-1) for t in texts.values()]), return_inverse=True)
    parts = np.split(numbers.reshape(-1), np.cumsum([t.size for t in texts.values()])[:-1])
    return (
        {split: part.reshape(texts[split].shape) for split, part in zip(texts, parts, strict=True)},
        tuple(names.tolist()),
    )


def warn_of_unseen(where: str, classes: Mapping[str, Iterable[Any]]) -> None:
    """Warn of classes in other splits that train lacks.

    Args:
        where: name of the data in messages.
        classes: names or numbers by split.
    """
    known = set(classes["train"])
    for split, found in classes.items():
        if unseen := sorted(set(found) - known):
            warnings.warn(
                f"{where}: {split} has classes that train lacks ({shown(', '.join(map(str, unseen)))}), so a "
                "conditional model cannot learn them; correct their names, or add examples of them to train.",
                stacklevel=2,
            )


def labels_of(
    where: str, parts: Mapping[str, Part], classes: tuple[str, ...]
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Labels (N,) by split, and the names of the classes if the labels are names."""
    found = {split: part.labels for split, part in parts.items() if part.labels is not None}
    for split, array in found.items():
        rows = len(parts[split].x)
        if array.shape != (rows,):
            raise FlowvaeError(
                f"{where}, labels of {split}: shape {array.shape}; must be ({rows},), one a row of {split}."
            )
    if found and all(is_text(array) for array in found.values()):
        if "train" in found:
            warn_of_unseen(f"{where}, labels", {split: np.unique(array).tolist() for split, array in found.items()})
        found, classes = number_names(found)
    return {split: _numbers(f"{where}, labels of {split}", array) for split, array in found.items()}, classes


def _numbers(where: str, array: NDArray[Any]) -> Tensor:
    """Labels of one split, whole numbers as int64 and others as float64."""
    if not isinstance(array, np.ndarray):
        return array
    if array.dtype.kind not in "biuf":
        raise FlowvaeError(
            f"{where}: values of type {shown(array.dtype)}; labels must be numbers in all splits, or names in all."
        )
    kind = np.float64 if array.dtype.kind == "f" else np.int64
    with np.errstate(over="ignore"):
        held = array.astype(kind)
    bad = ~np.isfinite(held) if kind is np.float64 else held != array
    if bad.any():
        row = int(bad.argmax())
        raise FlowvaeError(
            f"{where}: value {array[row]} at row {row}; must be finite, and below 2**63. Number missing labels as a "
            "separate class."
        )
    return torch.from_numpy(held)
