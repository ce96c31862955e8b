"""Positions in data, in words for messages."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["column", "place"]


def column(index: int, shape: Sequence[int]) -> str:
    """Name a value of a data point, by its index in the flattened data point.

    >>> column(3, (8,)), column(5, (1, 2, 3))
    ('column 3', 'value (0, 1, 2)')
    """
    return _name(tuple(int(i) for i in np.unravel_index(index, tuple(shape))))


def place(row: int, index: tuple[int, ...]) -> str:
    """Name a value of a data set, by its row and its index in the data point.

    >>> place(7, (3,)), place(7, (0, 1, 2))
    ('row 7, column 3', 'row 7, value (0, 1, 2)')
    """
    return f"row {row}, {_name(index)}"


def _name(index: tuple[int, ...]) -> str:
    return f"column {index[0]}" if len(index) == 1 else f"value {index}"
