"""Preparation of a checked data set from arrays and sources: type, offsets, labels and missing splits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowvae.core.errors import FlowvaeError, shown
from flowvae.core.parts import LikelihoodSpec
from flowvae.core.seeds import derive
from flowvae.data.access import VALUES
from flowvae.data.batch import Source
from flowvae.data.checks import check_shapes_agree, check_values
from flowvae.data.dataset import SPLITS, Dataset
from flowvae.data.labels import labels_of
from flowvae.data.places import column, place
from flowvae.data.precision import SAMPLE
from flowvae.data.sources import MappedArray, Selected, read_rows

__all__ = ["Part", "as_event_shape", "check_axes", "draw_missing", "prepare"]

Rows = Tensor | Source
FINEST = 1e-3  # largest rounding error of a condition, in standard deviations


@dataclass(frozen=True)
class Part:
    """A split as given by the user.

    Args:
        x: data points, (N, D), (N, H, W) or (N, C, H, W), of real numbers of any type; a memory-mapped array or a
            `Source` is read batch by batch; a tensor is used unchanged.
        labels: (N,), numbers or names.
        conditions: (N, C), or (N,) for one number.
    """

    x: NDArray[Any] | Source | Tensor
    labels: NDArray[Any] | None = None
    conditions: NDArray[Any] | None = None


def prepare(
    where: str,
    parts: Mapping[str, Part],
    likelihood: LikelihoodSpec,
    seed: int,
    *,
    name: str,
    split: str = "as given",
    preprocessing: str = "",
    classes: tuple[str, ...] = (),
    dequantized: bool = False,
) -> Dataset:
    """Make a data set from its splits; missing ones are drawn from train, 15 % each.

    Models compute in torch's default type. If that has too few digits for real-valued data, the median is subtracted
    before the cast: see `column_offsets`. Data points that are drawn from train keep their labels and conditions.

    Args:
        where: name of the data in messages.
        parts: parts by split; "train" and possibly others.
        likelihood: likelihood of the values.
        seed: random seed for the draw of missing splits.
        name: name of the data set.
        split: origin of the given splits, in words.
        preprocessing: earlier changes of the values, in words.
        classes: names of the classes, if the labels are numbers.
        dequantized: see `Dataset`.

    Raises:
        FlowvaeError: for data of another form, labels or conditions of another length, values outside the support, or
            too few data points to draw from; names the position.
    """
    given = {s: parts[s] for s in SPLITS if s in parts}
    exact = {s: as_event_shape(f"{where}, {s}", part.x) for s, part in given.items()}
    check_shapes_agree(where, exact)
    drawn = [s for s in ("valid", "test") if s not in given]
    labels, classes = labels_of(where, given, classes)
    conditions = _conditions(where, given)
    indices = draw_missing(where, len(given["train"].x), drawn, seed)
    data, offset = _read(where, exact, likelihood)
    if drawn:  # checked before the draw, so that errors name positions in the given data
        for s, x in data.items():
            check_values(f"{where}, {s}", x, likelihood)
        likelihood.check(where, data)
    if not isinstance(data["train"], Tensor):
        indices = {s: index.sort().values for s, index in indices.items()}  # a file is read fastest in order
    data |= {s: _select(data["train"], index) for s, index in indices.items()}
    for rows in (labels, conditions):
        if "train" in rows:
            rows |= {s: rows["train"][index] for s, index in indices.items()}
    dataset = Dataset(
        data["train"],
        data["valid"],
        data["test"],
        likelihood=likelihood,
        name=name,
        preprocessing="; ".join(filter(None, (preprocessing, _moved(offset)))) or "none",
        split=f"{', '.join(drawn)} drawn from train by seed {seed}" if drawn else split,
        labels=labels or None,
        classes=classes,
        offset=offset,
        conditions=conditions or None,
        dequantized=dequantized,
    )
    likelihood.units(dataset.train)  # refuses a constant column before anything uses the data
    return dataset


def as_event_shape(where: str, array: NDArray[Any] | Rows) -> NDArray[Any] | Rows:
    """Data (N, *event shape): adds a channel axis to images (N, H, W); returns a source unchanged.

    Raises:
        FlowvaeError: for values that are not real numbers, and for other shapes.
    """
    if not isinstance(array, np.ndarray):
        return array
    if array.dtype.kind not in "biuf":
        raise FlowvaeError(
            f"{where}: values of type {shown(array.dtype)}; must be real numbers. Leave out names and headings, and "
            "number the categories of a column."
        )
    check_axes(where, array.shape)
    return array[:, None] if array.ndim == 3 else array


def check_axes(where: str, shape: tuple[int, ...]) -> None:
    """Refuse a shape that is not (N, D), (N, H, W) or (N, C, H, W), or has no values.

    Raises:
        FlowvaeError: for such a shape.
    """
    if not 2 <= len(shape) <= 4:
        raise FlowvaeError(
            f"{where}: shape {tuple(shape)}; must be (N, D), or images (N, H, W) or (N, C, H, W). For one column use "
            "array[:, None]; array.reshape(len(array), -1) flattens data points to rows."
        )
    if len(shape) == 4 and shape[3] in (1, 3) and shape[1] not in (1, 3):
        raise FlowvaeError(
            f"{where}: shape {tuple(shape)} has the channels last; must be (N, C, H, W), such as "
            "array.transpose(0, 3, 1, 2)."
        )
    if not math.prod(shape):
        raise FlowvaeError(f"{where}: empty, shape {tuple(shape)}; every split needs data.")


def _read(
    where: str, given: dict[str, NDArray[Any] | Rows], likelihood: LikelihoodSpec
) -> tuple[dict[str, Rows], Tensor | None]:
    """Data in the networks' type, and the offset subtracted before the cast."""
    arrays = {s: x for s, x in given.items() if isinstance(x, np.ndarray)}
    if len(arrays) == len(given) and not any(isinstance(x, np.memmap) for x in arrays.values()):
        exact = {s: _exact(x) for s, x in arrays.items()}
        return _cast(where, exact, likelihood)  # type: ignore[return-value]
    offsets = None
    if "train" in arrays:  # offsets from a sample; units are checked over all data
        train = arrays["train"]
        count = min(SAMPLE, max(100, VALUES // train[:1].size))
        sample = _exact(read_rows(train, np.arange(0, len(train), max(1, len(train) // count))))
        offsets = likelihood.offsets(sample, _kind()) if np.isfinite(sample).all() else None
        offsets = offsets if offsets is not None and offsets.any() else None
    data = {s: MappedArray(x, offsets) if isinstance(x, np.ndarray) else x for s, x in given.items()}
    if offsets is not None and len(arrays) < len(given):
        raise FlowvaeError(
            f"{where}: train needs an offset ({_moved(torch.from_numpy(offsets))}), but a source cannot have one; give "
            "all splits as arrays, or subtract it from all of them."
        )
    return data, None if offsets is None else torch.from_numpy(offsets)


def _kind() -> type[np.floating[Any]]:
    return np.float64 if torch.get_default_dtype() == torch.float64 else np.float32


def _exact(array: NDArray[Any]) -> NDArray[np.floating[Any]]:
    """Numbers in a floating-point type that holds them."""
    large = array.dtype.kind in "iu" and array.size and max(int(array.max()), -int(array.min())) > 2**53
    return array.astype(np.longdouble if large else np.result_type(array.dtype, np.float32))


def _cast(
    where: str, data: dict[str, NDArray[Any]], likelihood: LikelihoodSpec
) -> tuple[dict[str, Tensor], Tensor | None]:
    """Data in the networks' type, and the offset subtracted before the cast."""
    kind = _kind()
    offsets = likelihood.offsets(data["train"], kind)
    if offsets is not None and not offsets.any():
        offsets = None
    cast = {}
    for split, exact in data.items():
        if offsets is not None:
            exact = exact - offsets
        with np.errstate(over="ignore"):
            held = exact.astype(kind)
        beyond = np.isinf(held) & np.isfinite(exact)
        if beyond.any():
            index = tuple(int(i) for i in np.argwhere(beyond)[0])
            raise FlowvaeError(
                f"{where}, {split}: value {data[split][index]:g} at {place(index[0], index[1:])}; must be below "
                f"{np.finfo(kind).max:.2g}. Remove the outlier, or give the column in larger units."
            )
        cast[split] = torch.from_numpy(held)
    train, exact = cast["train"], data["train"]
    lost = torch.from_numpy((exact != exact[0]).any(0)) & (train == train[0]).all(0)
    if lost.any():
        worst = int(lost.flatten().nonzero()[0])
        raise FlowvaeError(
            f"{where}, train: {column(worst, lost.shape)} varies by less than {kind.__name__} can hold; give it in "
            "smaller units."
        )
    return cast, None if offsets is None else torch.from_numpy(offsets)


def _moved(offset: Tensor | None) -> str:
    """The offset in words; empty without one."""
    if offset is None:
        return ""
    flat, shape = offset.flatten(), offset.shape
    moved = flat.nonzero().flatten().tolist()
    some = ", ".join(f"{flat[index]:.17g} from {column(index, shape)}" for index in moved[:3])
    more = f" and {len(moved) - 3} more" if len(moved) > 3 else ""
    return f"in the data's own type subtracted {some}{more}"


def _conditions(where: str, parts: Mapping[str, Part]) -> dict[str, Tensor]:
    """Conditions (N, C) by split, in the networks' type."""
    found: dict[str, Tensor] = {}
    for split, part in parts.items():
        if part.conditions is None:
            continue
        label, array = f"{where}, conditions of {split}", part.conditions
        rows = len(part.x)
        array = array[:, None] if array.ndim == 1 else array
        if array.dtype.kind not in "biuf" or array.ndim != 2 or len(array) != rows or not array.shape[1]:
            raise FlowvaeError(
                f"{label}: shape {array.shape} of {shown(array.dtype)}; must be real numbers of shape ({rows}, C), "
                f"one row for each data point of {split}."
            )
        exact = _exact(array)
        if not np.isfinite(exact).all():
            row, index = (int(i) for i in np.argwhere(~np.isfinite(exact))[0])
            raise FlowvaeError(f"{label}: value {exact[row, index]:g} at {place(row, (index,))}; must be finite.")
        held = exact.astype(_kind())
        lost = np.abs(held - exact).max(0) > FINEST * exact.std(0, dtype=np.result_type(exact, np.float64))
        if (lost & (exact != exact[0]).any(0)).any():
            worst = int(lost.argmax())
            raise FlowvaeError(
                f"{label}: {_kind().__name__} rounds column {worst} by more than {FINEST:g} of its standard deviation; "
                "subtract its mean first."
            )
        found[split] = torch.from_numpy(held)
    if found and len(found) < len(parts):
        missing = next(split for split in parts if split not in found)
        raise FlowvaeError(f"{where}: conditions lack {missing}; every split needs them.")
    return found


def draw_missing(where: str, count: int, drawn: Sequence[str], seed: int) -> dict[str, Tensor]:
    """Positions in train of the data points of each split, 15 % for each missing one; empty if none is missing.

    Args:
        where: name of the data in messages.
        count: number of data points of train.
        drawn: the missing splits.
        seed: random seed of the run.

    Raises:
        FlowvaeError: for too few data points.
    """
    if not drawn:
        return {}
    share = math.ceil(0.15 * count)
    if count - share * len(drawn) < 2:
        raise FlowvaeError(
            f"{where}: train has {count} {'row' if count == 1 else 'rows'}: too few to draw {' and '.join(drawn)} "
            "from; give those splits too."
        )
    order = torch.randperm(count, generator=torch.Generator().manual_seed(derive(seed, "split")))
    found = {split: order[i * share : (i + 1) * share] for i, split in enumerate(drawn)}
    return {**found, "train": order[share * len(drawn) :]}


def _select(rows: Rows, index: Tensor) -> Rows:
    return rows[index] if isinstance(rows, Tensor) else Selected(rows, index)
