"""Holm's correction for multiple tests."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["holm"]

Array = np.ndarray[Any, Any]


def holm(p_values: Array) -> Array:
    """Adjust p-values for multiple tests, to control the family-wise error rate.

    References:
        Holm (1979), "A simple sequentially rejective multiple test procedure".

    >>> holm(np.array([0.01, 0.04, 0.03])).tolist()
    [0.03, 0.06, 0.06]
    """
    from statsmodels.stats.multitest import multipletests

    adjusted: Array = multipletests(p_values, method="holm")[1]
    return adjusted
