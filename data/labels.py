"""Class labels by split: numbers as they are, names numbered in sorted order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["is_text", "number_names"]


def is_text(values: Any) -> bool:
    """Whether labels are names: an array or a sequence of texts."""
    if isinstance(values, np.ndarray):
        return values.dtype.kind in "US" or (values.dtype.kind == "O" and all(isinstance(v, str) for v in values.flat))
    return isinstance(values, list | tuple) and bool(values) and all(isinstance(v, str) for v in values)


def number_names(labels: Mapping[str, Any]) -> tuple[dict[str, np.ndarray[Any, Any]], tuple[str, ...]]:
    """Names by split as numbers by split, and the names in sorted order, which the numbers count.

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
