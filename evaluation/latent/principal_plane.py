"""Projection of points onto their first two principal components, for figures."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["axis_label", "principal_plane"]


def principal_plane(points: np.ndarray[Any, Any]) -> Any:
    """Fit scikit-learn's PCA with two components to points (N, D); None if D ≤ 2, where none is needed."""
    if points.shape[1] <= 2:
        return None
    from sklearn.decomposition import PCA  # slow to import

    return PCA(2).fit(points)


def axis_label(symbol: str, number: int, plane: Any) -> str:
    """Label of the first or second axis: a principal component or, without a plane, $symbol_number$."""
    if plane is None:
        return f"${symbol}_{number}$"
    return f"principal component {number} ({plane.explained_variance_ratio_[number - 1]:.0%} of variance)"
