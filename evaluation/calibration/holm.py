"""Holm's correction of several tests."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["holm"]

Array = np.ndarray[Any, Any]


def holm(p_values: Array) -> Array:
    """p-values corrected for their number, such that the chance of any false alarm keeps to the level.

    References:
        Holm (1979), "A simple sequentially rejective multiple test procedure".

    >>> holm(np.array([0.01, 0.04, 0.03])).tolist()
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values)
    factors = np.arange(len(order), 0, -1)
    corrected = np.empty(len(order))
    corrected[order] = np.minimum(np.maximum.accumulate(factors * p_values[order]), 1)
    return corrected
