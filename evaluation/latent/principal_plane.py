"""The plane in which points of many columns are drawn."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["axis_label", "principal_plane"]


def principal_plane(points: np.ndarray[Any, Any]) -> Any:
    """Scikit-learn's PCA of points (N, D), two components; None where D ≤ 2, for then there is nothing to choose."""
    if points.shape[1] <= 2:
        return None
    from sklearn.decomposition import PCA  # slow to import

    return PCA(2).fit(points)


def axis_label(symbol: str, number: int, plane: Any) -> str:
    """What the first or second axis shows: a principal component, or where there is no plane $symbol_number$."""
    if plane is None:
        return f"${symbol}_{number}$"
    return f"principal component {number} ({plane.explained_variance_ratio_[number - 1]:.0%} of variance)"
