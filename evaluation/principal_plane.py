"""The plane in which points of many columns are drawn."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["principal_plane"]


def principal_plane(points: np.ndarray[Any, Any]) -> Any:
    """Scikit-learn's PCA of points (N, D), two components; None where D ≤ 2, for then there is nothing to choose."""
    if points.shape[1] <= 2:
        return None
    from sklearn.decomposition import PCA  # slow to import

    return PCA(2).fit(points)
