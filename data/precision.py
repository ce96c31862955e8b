"""Floating-point precision of data: ranges and units of columns, and offsets that avoid rounding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowvae.core.errors import FlowvaeError
from flowvae.data.access import blocks
from flowvae.data.batch import Source
from flowvae.data.places import column, place

__all__ = ["LARGEST", "SMALLEST", "check_outliers", "column_offsets", "column_units"]

LARGEST, SMALLEST = 1e15, 1e-15  # float32 can represent their squares, and those of a thousandth
FARTHEST = 1e12  # largest distance of held-out data from the mean of train, in standard deviations of train
FINEST = 1e-6  # smallest difference that a float32 network resolves, in standard deviations
SAMPLE = 10_001  # data points of a source that medians are computed from


def _narrowest(spread: Any, scale: float | None) -> Any:
    """The smallest width that the density resolves: the noise scale, or 1 % of the spread if the scale is learned."""
    return 0.01 * spread if scale is None else scale


def column_offsets(train: NDArray[Any], scale: float | None, shared: bool, kind: type) -> NDArray[np.float64]:
    """Offset to subtract before a cast, of the event shape: the median of columns that would lose digits, else 0.

    A cast rounds a number x by up to ε/2 |x|. If that is more than a hundredth of the width that the density resolves,
    the median of the column is subtracted. The Jacobian of a shift is 1, so the original and the shifted data have
    equal densities.

    Args:
        train: finite data (N, *shape), in a type that holds them exactly.
        scale: scale of the Gaussian noise; None: learned.
        shared: whether all columns have one unit.
        kind: NumPy type that the data are cast to.
    """
    shape, train = train.shape[1:], train.reshape(len(train), -1)
    offsets = np.zeros(train.shape[1])
    with np.errstate(over="ignore", invalid="ignore"):
        moved = np.abs(train).max(0) * np.finfo(kind).eps / 2
        spread = train.std(0, dtype=np.result_type(train, np.float64))
        far = moved > 0.01 * _narrowest(np.sqrt((spread**2).mean()) if shared else spread, scale)
    if scale is None and not shared:
        far &= (train != train[0]).any(0)  # a constant column has no spread and is refused later
    middle = len(train) // 2
    offsets[far] = np.partition(train[:, far], middle, axis=0)[middle]
    return offsets.reshape(shape)


def column_units(
    where: str, train: Tensor | Source, scale: float | None, shared: bool = False
) -> tuple[Tensor, Tensor]:
    """Mean and unit of each value of a data point, of the event shape, for networks and Gaussian densities.

    The unit is the standard deviation, or the noise scale if that is larger: variation below the noise is no signal,
    and a rare value must not become a huge input. If the scale is learned for each column, a constant column has the
    unit 0.

    Args:
        where: name of the data in messages.
        train: finite data (N, *shape).
        scale: scale of the Gaussian noise; None: learned.
        shared: whether all columns have one unit, the root of the mean of their variances.

    Raises:
        FlowvaeError: for a single row, numbers too large or too small to square, or a spread or scale below the
            rounding error; names the column.
    """
    if len(train) < 2:
        raise FlowvaeError(f"{where} has 1 row: gaussian takes its units from the spread of train; give 2 or more.")
    shape = train.shape[1:]
    low, high, mean, spread = _moments(train)
    largest, constant = torch.maximum(-low, high), low == high
    worst = int(largest.argmax())
    if largest[worst] > LARGEST:
        raise FlowvaeError(
            f"{where}: {column(worst, shape)} reaches {largest[worst]:g}; gaussian squares numbers, which must be "
            f"{LARGEST:g} at most. Remove outliers, or give the column in larger units."
        )
    unit = torch.where(constant, 0.0, spread)
    if shared:
        unit = torch.full_like(unit, unit.square().mean().sqrt().item())
    if scale is not None:
        unit = unit.clamp_min(scale)
    small = (unit < SMALLEST) & ~constant
    if small.any():
        worst = int(small.nonzero()[0])
        raise FlowvaeError(
            f"{where}: {column(worst, shape)} has the standard deviation {unit[worst]:g}; gaussian squares it, so it "
            f"must be {SMALLEST:g} at least. Give the column in smaller units."
        )
    rounding = largest * torch.finfo(train.dtype).eps / 2
    lost = (rounding > 0.1 * _narrowest(unit, scale)) & (unit > 0)
    if lost.any():
        worst = int(lost.nonzero()[0])
        against = f"its standard deviation {unit[worst]:g}" if scale is None else f"the noise scale {scale:g}"
        raise FlowvaeError(
            f"{where}: {column(worst, shape)} reaches {largest[worst]:g}, where "
            f"{str(train.dtype).removeprefix('torch.')} rounds by up to {rounding[worst]:.2g}: too coarse for "
            f"{against}. Subtract an offset in float64 before the cast, as Arrays does"
            + ("." if scale is None else ", or name a larger scale.")
        )
    return mean.reshape(shape), unit.reshape(shape)


def check_outliers(
    name: str,
    splits: Mapping[str, Tensor | Source],
    center: Tensor,
    unit: Tensor,
    scale: float | None = None,
    shared: bool = False,
) -> None:
    """Refuse outliers for which the network input (x − center) / unit in float32 is degenerate.

    Args:
        name: name of the data in messages.
        splits: finite data (N, *shape) by the name of the split; "train" and possibly others.
        center: mean of each value of train, of the event shape.
        unit: unit of each value, from `column_units`; 0: a constant column, whose held-out values are not checked.
        scale: scale of the Gaussian noise; differences below a hundredth of it are ignored. None: learned.
        shared: whether all columns have one unit.

    Raises:
        FlowvaeError: for outliers that make most other values of a column equal, or held-out data too far from train.
    """
    shape, center, unit = unit.shape, center.flatten(), unit.flatten()
    train = splits["train"]
    middle = _median(train)
    merged, different = (torch.zeros_like(unit, dtype=torch.long) for _ in range(2))
    for x in _flat_blocks(train):
        distance = (x - middle).abs()
        apart = distance > 0.01 * (scale or 0.0)
        different += apart.sum(0)
        merged += (apart & (distance < FINEST * unit)).sum(0)
    crowded = merged > different / 2
    if crowded.any():
        worst = int(crowded.nonzero()[0])
        value, row = _farthest(train, worst, middle[worst])
        if shared:
            raise FlowvaeError(
                f"{name}, train: {column(worst, shape)} has values such as {value:g}, at row {row}, but the standard "
                f"deviation of all columns is {unit[worst]:g}: most values of it are then the same number. Use "
                "gaussian or gaussian:each, with a unit for each column, or remove outliers of the others."
            )
        raise FlowvaeError(
            f"{name}, train: {column(worst, shape)} has outliers such as {value:g} at row {row}, which make its "
            f"standard deviation {unit[worst]:g}: most other values are then the same number. Remove the outliers, or "
            "transform the column, such as by a logarithm."
        )
    for split, data in splits.items():
        start = 0
        for x in _flat_blocks(data):
            far = ((x - center).abs() > FARTHEST * unit) & (unit > 0)
            if far.any():
                row, worst = far.nonzero()[0].tolist()
                index = tuple(int(i) for i in np.unravel_index(worst, shape))
                raise FlowvaeError(
                    f"{name}, {split}: value {x[row, worst]:g} at {place(start + row, index)}; train has the mean "
                    f"{center[worst]:g} and the standard deviation {unit[worst]:g} there, and its density would not be "
                    "finite. Remove the row, or correct the value."
                )
            start += len(x)


def _flat_blocks(x: Tensor | Source) -> Iterator[Tensor]:
    for block in blocks(x):
        yield block.flatten(1)


def _moments(train: Tensor | Source) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Smallest and largest value, mean and standard deviation of each column, (D,) each."""
    if isinstance(train, Tensor):
        x = train.flatten(1)
        return x.amin(0), x.amax(0), x.mean(0), x.std(0)
    count, low, high, mean, square = 0, *(torch.zeros(()),) * 2, *(torch.zeros((), dtype=torch.float64),) * 2
    for x in _flat_blocks(train):  # pairwise update of the moments, Chan, Golub & LeVeque (1983)
        exact = x.double()
        own = exact.mean(0)
        share = len(x) / (count + len(x))
        square = square + (exact - own).square().sum(0) + (own - mean).square() * count * share
        mean = mean + share * (own - mean)
        low = torch.minimum(low, x.amin(0)) if count else x.amin(0)
        high = torch.maximum(high, x.amax(0)) if count else x.amax(0)
        count += len(x)
    return low, high, mean.to(train.dtype), (square / (count - 1)).sqrt().to(train.dtype)


def _median(train: Tensor | Source) -> Tensor:
    """The median of each column, (D,); for a source, of evenly spaced data points."""
    if not isinstance(train, Tensor):
        train = train[torch.arange(0, len(train), max(1, len(train) // SAMPLE))]
    return train.flatten(1).median(0).values


def _farthest(train: Tensor | Source, index: int, middle: Tensor) -> tuple[float, int]:
    """The value of a column that lies farthest from its median, and its row."""
    values = torch.cat([x[:, index] for x in _flat_blocks(train)])
    row = int((values - middle).abs().argmax())
    return values[row].item(), row
