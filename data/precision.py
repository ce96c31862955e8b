"""Real numbers in floating point: what a type can hold, and column offsets that keep it from losing digits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowvae.core.errors import FlowvaeError

__all__ = ["LARGEST", "SMALLEST", "check_outliers", "column_offsets", "column_units"]

LARGEST, SMALLEST = 1e15, 1e-15  # squares of such numbers, and of a thousandth of them, are float32 numbers
FARTHEST = 1e12  # standard deviations of train that held-out data may lie away from its mean
FINEST = 1e-6  # of a standard deviation: what a float32 network still tells apart


def _narrowest(spread: Any, scale: float | None) -> Any:
    """The width that the density resolves: the noise scale, or where it is learned a hundredth of the spread."""
    return 0.01 * spread if scale is None else scale


def column_offsets(train: NDArray[Any], scale: float | None, shared: bool, kind: type) -> NDArray[np.float64]:
    """What to subtract from each column before a cast, shape (D,): its median where the cast would lose digits.

    A cast moves a number x by up to ε/2 |x|. Where that is more than a hundredth of the width that the density
    resolves, the column is measured from its median. A shift has the Jacobian one: densities of the original data are
    those of the shifted ones.

    Args:
        train: data (N, D), finite, in a type that holds them.
        scale: of the Gaussian noise; None: learned.
        shared: whether all columns have one unit.
        kind: NumPy's type that the data are cast to.
    """
    offsets = np.zeros(train.shape[1])
    with np.errstate(over="ignore", invalid="ignore"):
        moved = np.abs(train).max(0) * np.finfo(kind).eps / 2
        spread = train.std(0, dtype=np.result_type(train, np.float64))
        far = moved > 0.01 * _narrowest(np.sqrt((spread**2).mean()) if shared else spread, scale)
    if scale is None and not shared:
        far &= (train != train[0]).any(0)  # a constant column has no spread, and is refused as it is
    middle = len(train) // 2
    offsets[far] = np.partition(train[:, far], middle, axis=0)[middle]
    return offsets


def column_units(where: str, train: Tensor, scale: float | None, shared: bool = False) -> tuple[Tensor, Tensor]:
    """Mean and unit of each column, shape (D,), that networks and a Gaussian density work in.

    The unit is the standard deviation, or the noise scale where that is larger: what varies less than the noise is no
    signal, and a rare value must not become a huge input. Where the scale is learned, that of a constant column is 0.

    Args:
        where: what names the data in messages.
        train: finite data (N, D).
        scale: of the Gaussian noise; None: learned.
        shared: whether all columns have one unit, the root of the mean of their variances.

    Raises:
        FlowvaeError: for one row, numbers that are too large or too small to be squared, or a spread or scale below
            the rounding of the numbers. Names the column.
    """
    if len(train) < 2:
        raise FlowvaeError(f"{where} has 1 row: gaussian takes its units from the spread of train; give 2 or more.")
    low, high = train.amin(0), train.amax(0)
    largest, constant = torch.maximum(-low, high), low == high
    column = int(largest.argmax())
    if largest[column] > LARGEST:
        raise FlowvaeError(
            f"{where}: column {column} reaches {largest[column]:g}; gaussian squares numbers, which must be "
            f"{LARGEST:g} at most. Remove outliers, or give the column in larger units."
        )
    unit = torch.where(constant, 0.0, train.std(0))
    if shared:
        unit = torch.full_like(unit, unit.square().mean().sqrt().item())
    if scale is not None:
        unit = unit.clamp_min(scale)
    small = (unit < SMALLEST) & ~constant
    if small.any():
        column = int(small.nonzero()[0])
        raise FlowvaeError(
            f"{where}: column {column} has the standard deviation {unit[column]:g}; gaussian squares it, so it must be "
            f"{SMALLEST:g} at least. Give the column in smaller units."
        )
    rounding = largest * torch.finfo(train.dtype).eps / 2
    lost = (rounding > 0.1 * _narrowest(unit, scale)) & (unit > 0)
    if lost.any():
        column = int(lost.nonzero()[0])
        against = f"its standard deviation {unit[column]:g}" if scale is None else f"the noise scale {scale:g}"
        raise FlowvaeError(
            f"{where}: column {column} reaches {largest[column]:g}, where {str(train.dtype).removeprefix('torch.')} "
            f"rounds by up to {rounding[column]:.2g}: too coarse for {against}. Subtract an offset in float64 before "
            "the cast, as Arrays does" + ("." if scale is None else ", or name a larger scale.")
        )
    return train.mean(0), unit


def check_outliers(
    name: str, splits: Mapping[str, Tensor], center: Tensor, unit: Tensor, scale: float | None = None
) -> None:
    """Refuse data that networks, which see (x − center) / unit in float32, cannot tell apart or make infinite.

    Args:
        name: of the data, for messages.
        splits: finite data (N, D) by the name of the split; "train" and possibly others.
        center: mean of each column of train.
        unit: of each column, as `column_units` gives it; 0: a constant column, in which held-out data may lie anywhere.
        scale: of the Gaussian noise, beside which a hundredth of it makes no difference; None: learned.

    Raises:
        FlowvaeError: for outliers beside which most other values of a column are one, or held-out data far outside.
    """
    train = splits["train"]
    distance = (train - train.median(0).values).abs()
    different = distance > 0.01 * (scale or 0.0)
    merged = (different & (distance < FINEST * unit)).sum(0) > different.sum(0) / 2
    if merged.any():
        column = int(merged.nonzero()[0])
        row = int(distance[:, column].argmax())
        raise FlowvaeError(
            f"{name}, train: column {column} has outliers such as {train[row, column]:g} at row {row}, which make its "
            f"standard deviation {unit[column]:g}: most other values are then the same number. Remove the outliers, or "
            "transform the column, such as by a logarithm."
        )
    for split, x in splits.items():
        far = ((x - center).abs() > FARTHEST * unit) & (unit > 0)
        if far.any():
            row, column = far.nonzero()[0].tolist()
            raise FlowvaeError(
                f"{name}, {split}: value {x[row, column]:g} at row {row}, column {column}; train has the mean "
                f"{center[column]:g} and the standard deviation {unit[column]:g} there, and its density would not be "
                "finite. Remove the row, or correct the value."
            )
