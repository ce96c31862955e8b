"""Data frames: columns of numbers as data points, and named ones as labels and conditions."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from flowvae.core.errors import FlowvaeError, nearest, shown
from flowvae.data.preparation import Part

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["is_column", "is_frame", "part_of_frame"]


def is_frame(value: object) -> TypeGuard[pd.DataFrame]:
    """Whether a value is a pandas data frame; does not import pandas."""
    return "pandas" in sys.modules and isinstance(value, sys.modules["pandas"].DataFrame)


def is_column(value: object) -> TypeGuard[pd.Series[Any]]:
    """Whether a value is a column of a data frame."""
    return "pandas" in sys.modules and isinstance(value, sys.modules["pandas"].Series)


def part_of_frame(
    where: str, frame: pd.DataFrame, labels: object = None, conditions: Sequence[Any] | None = None
) -> Part:
    """A data frame as data points (N, number of columns), one a row.

    Args:
        where: name of the data frame in messages.
        frame: columns of numbers, and possibly those of labels and conditions.
        labels: name of the column of labels, numbers or names; None: no labels.
        conditions: names of the columns of conditions of a conditional model.

    Raises:
        FlowvaeError: for a missing, duplicate or non-numeric column; names it.
    """
    columns = list(frame.columns)
    if twice := [name for name in columns if columns.count(name) > 1]:
        raise FlowvaeError(f"{where}: the column {shown(twice[0])} is there twice; rename one.")
    conditions = [] if conditions is None else list(conditions)
    named = [*conditions, *([] if labels is None else [labels])]
    for name in named:
        if name not in columns:
            raise FlowvaeError(f"{where}: no column {shown(name)}; {nearest(name, map(str, columns))}")
        if named.count(name) > 1:
            raise FlowvaeError(f"{where}: the column {shown(name)} is named twice; name it once.")
    inside = [name for name in columns if name not in named]
    if not inside:
        raise FlowvaeError(f"{where}: no columns are left for the data points; name fewer.")
    return Part(
        _numbers(where, frame, inside),
        None if labels is None else _labels(where, frame[labels]),
        _numbers(where, frame, conditions) if conditions else None,
    )


def _numbers(where: str, frame: pd.DataFrame, names: Sequence[Any]) -> NDArray[Any]:
    """Columns as one array, in a type that holds all of them; NaN where a value is missing."""
    import pandas as pd

    found = []
    for name in names:
        column = frame[name]
        kind = column.dtype
        if not (pd.api.types.is_numeric_dtype(kind) and not pd.api.types.is_complex_dtype(kind)):
            raise FlowvaeError(
                f"{where}: column {shown(name)} holds no numbers ({shown(str(kind))}); name it as the labels, drop it, "
                "or encode it, such as by pandas.get_dummies(frame, dtype=float)."
            )
        if column.isna().any():
            values = column.to_numpy(np.float64, na_value=np.nan)
        else:
            values = np.asarray(column.to_numpy(getattr(kind, "numpy_dtype", None)))  # of a nullable type too
        if values.dtype.kind in "iu" and len(values) and max(int(values.max()), -int(values.min())) > 2**53:
            values = values.astype(np.longdouble)  # float64, the type of other columns, would round these
        found.append(values)
    kinds = {values.dtype for values in found}
    return np.stack(found, 1) if len(kinds) == 1 else np.stack([v.astype(np.result_type(*kinds)) for v in found], 1)


def _labels(where: str, column: pd.Series[Any]) -> NDArray[Any]:
    import pandas as pd

    if column.isna().any():
        row = int(column.isna().to_numpy().argmax())
        raise FlowvaeError(
            f"{where}: column {shown(column.name)} has no label at row {row}; fill it in, or drop the row."
        )
    if pd.api.types.is_bool_dtype(column.dtype) or pd.api.types.is_numeric_dtype(column.dtype):
        return np.asarray(column.to_numpy(getattr(column.dtype, "numpy_dtype", None)))
    return np.array([str(value) for value in column])
