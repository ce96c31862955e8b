"""Conversion between user data, NumPy arrays or tensors in original units, and the tensors of a trained model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Size, Tensor, nn

from flowvae.core.errors import FlowvaeError, nearest, one_line, plain_number, shown
from flowvae.core.parts import Condition
from flowvae.data import Source
from flowvae.data.checks import check_values
from flowvae.data.files.frames import is_frame, part_of_frame
from flowvae.experiments.signature import Signature
from flowvae.networks import check_data

__all__ = ["Rows", "as_codes", "as_condition", "as_rows", "in_original_units", "same_kind"]

EXACT = (torch.float64, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.bool)


class Rows:
    """A `Source` of user data that converts data points when they are read.

    Args:
        x: array, tensor or source (N, *event shape), in the units of the original data.
        signature: signature of the model.
        like: a tensor of the model; data points get its type and device.
    """

    def __init__(self, x: NDArray[Any] | Tensor | Source, signature: Signature, like: Tensor) -> None:
        self.x = x
        self.like = like
        self.offset = signature.offset_array
        self.shape = Size(x.shape)
        self.dtype = like.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Tensor) -> Tensor:
        """Return the data points with indices (B,), shape (B, *event shape), on the model's device."""
        if isinstance(self.x, np.ndarray):
            return self._converted(np.asarray(self.x[index.numpy()]))
        return self._converted(self.x[index.to(self.x.device) if isinstance(self.x, Tensor) else index])

    def _converted(self, part: NDArray[Any] | Tensor) -> Tensor:
        if isinstance(part, Tensor) and self.offset is None:
            return part.detach().to(self.like.device, self.dtype)
        values = part.numpy(force=True) if isinstance(part, Tensor) else part
        if self.offset is not None:
            # as in training: integers above 2^53 have no exact float64 value
            values = (values.astype(np.longdouble) if values.dtype.kind in "iu" else values) - self.offset
        kind = torch.empty(0, dtype=self.dtype).numpy().dtype
        with np.errstate(over="ignore"):  # infinities raise an error later, with their position
            return torch.from_numpy(np.array(values, kind)).to(self.like.device)

    def batches(self, order: Iterable[Tensor]) -> Iterator[Tensor]:
        """Iterate over `self[index]` for each index in order."""
        if isinstance(self.x, np.ndarray | Tensor):
            return (self[index] for index in order)
        return (self._converted(part) for part in self.x.batches(order))  # a source may read ahead


def as_rows(name: str, x: Any, signature: Signature, like: Tensor) -> Rows:
    """Check user data, and return them as a source.

    Args:
        name: name of the argument, for messages.
        x: NumPy array, tensor, source (N, *event shape) or data frame, in the units of the original data.
        signature: signature of the model.
        like: a tensor of the model.

    Raises:
        FlowvaeError: for any other object, another event shape, values that are not real numbers or outside the
            support, and a type that rounds data from which an offset must be subtracted.
    """
    event = Size(signature.shape)
    if is_frame(x):
        x = part_of_frame(name, x).x
    if not isinstance(x, np.ndarray | Tensor | Source) or isinstance(x, np.ma.MaskedArray):
        wanted = ", ".join(map(str, ("N", *event)))
        raise FlowvaeError(f"{name} = {shown(x)}: must be a NumPy array, a tensor or a data frame of shape ({wanted}).")
    _check_numbers(name, x)
    check_data(name, torch.empty(x.shape, device="meta"), event)  # the shape alone
    if signature.offset is not None and not _is_exact(x):
        raise FlowvaeError(
            f"{name}: {x.dtype} rounds these data, from which an offset was subtracted before training; give the "
            "original values in float64; for data of a run, run.data.original(x)."
        )
    rows = Rows(x, signature, like)
    check_values(name, rows, signature.spec)
    return rows


def as_codes(z: Any, latent: Size, like: Tensor) -> Tensor:
    """Check user codes, and return them as a tensor of the model's type, shape (..., N, D), on the CPU.

    Args:
        z: NumPy array or tensor (..., N, *latent).
        latent: shape of a code.
        like: a tensor of the model; codes get its type.

    Raises:
        FlowvaeError: for any other object, another shape, and values that are not finite real numbers.
    """
    wanted = ", ".join(map(str, ("N", *latent)))
    if not isinstance(z, np.ndarray | Tensor) or isinstance(z, np.ma.MaskedArray):
        raise FlowvaeError(f"z = {shown(z)}: must be a NumPy array or a tensor of shape ({wanted}).")
    if z.ndim <= len(latent) or z.shape[-len(latent) :] != latent or not all(z.shape):
        raise FlowvaeError(f"z: shape {tuple(z.shape)}; must be ({wanted}), with optional leading axes.")
    _check_numbers("z", z)
    codes = (z.detach() if isinstance(z, Tensor) else torch.from_numpy(np.array(z, np.float64))).to("cpu", like.dtype)
    if not codes.isfinite().all():
        wrong = codes[~codes.isfinite()][0].item()
        raise FlowvaeError(f"z: {wrong:g} among the codes; must be finite numbers of {like.dtype}.")
    return codes.flatten(-len(latent))


def as_condition(
    c: Any,
    rows: int | None,
    signature: Signature,
    condition: Condition | None,
    like: Tensor,
    needed: bool = True,
) -> Tensor | None:
    """Check a user's condition, and return it as a tensor (N, C) for the model; None if there is none.

    Args:
        c: labels (N,), as whole numbers or names of classes, or one of them for all data points; one-hot labels or
            covariates (N, C); None: no condition.
        rows: N; None: the number of rows of c.
        signature: signature of the model.
        condition: condition of the experiment.
        like: a tensor of the model; the result gets its type and device.
        needed: whether a conditional model requires a condition here.

    Raises:
        FlowvaeError: for a condition that is missing or of another form, an unknown class, or a condition for a model
            without one.
    """
    if c is None:
        if condition is not None and needed:
            forms = (
                "labels (N,), as numbers or names" if condition.on == "labels" else f"shape (N, {signature.condition})"
            )
            raise FlowvaeError(f"c = None: this model is conditional; give c, {forms}.")
        return None
    if condition is None:
        raise FlowvaeError(f"c = {shown(c)}: this model is not conditional; leave c out.")
    c = plain_number(c)
    if isinstance(c, str | int):
        if rows is None:
            raise FlowvaeError(f"c = {shown(c)}: is a single label; give the number of data points, too.")
        c = [c] * rows
    try:
        if isinstance(c, Tensor):  # NumPy has no bfloat16
            c = c.float() if c.dtype == torch.bfloat16 else c
            values = c.numpy(force=True)
        else:
            values = np.asarray(c)
    except (NotImplementedError, TypeError, ValueError) as error:  # no values, not dense, of different lengths
        raise FlowvaeError(f"c = {shown(c)}: {one_line(error)}.") from None
    if not values.size:
        raise FlowvaeError(f"c: shape {values.shape}; must have one condition or more.")
    if condition.on == "labels" and values.ndim == 1:
        found = nn.functional.one_hot(torch.from_numpy(_numbers(values, signature)), signature.condition)
    else:
        found = _covariates(values, condition, signature)
    if rows is not None and len(found) != rows:
        raise FlowvaeError(f"c: {len(found)} conditions for {rows} data points; give one for each data point.")
    converted = found.to(like.device, like.dtype)
    if not converted.isfinite().all():
        large = found[~converted.isfinite().cpu()][0].item()
        raise FlowvaeError(f"c: {large:g} among the conditions; is too large for {like.dtype}.")
    return converted


def in_original_units(x: Tensor, signature: Signature) -> Tensor:
    """Convert x (..., *event shape) to the units of the original data; float64 if there is an offset."""
    return x if signature.offset is None else x.cpu().double() + torch.from_numpy(signature.offset_array)


def same_kind(result: Tensor, given: Any) -> Any:
    """Convert a result to the kind of the input: an array for arrays and frames, otherwise a tensor."""
    if isinstance(given, np.ndarray) or is_frame(given):
        return result.numpy(force=True)
    if not isinstance(given, Tensor):
        return result.cpu()
    return (result.float() if given.device.type == "mps" else result).to(given.device)  # which has no float64


def _check_numbers(name: str, x: NDArray[Any] | Tensor | Source) -> None:
    if isinstance(x, Tensor) and (x.layout != torch.strided or x.is_meta):
        raise FlowvaeError(f"{name} = {shown(x)}: must be a dense tensor with values.")
    if x.dtype.is_complex if isinstance(x.dtype, torch.dtype) else x.dtype.kind not in "biuf":
        raise FlowvaeError(f"{name}: {x.dtype}; must be real numbers.")


def _is_exact(x: NDArray[Any] | Tensor | Source) -> bool:
    """Whether the type is an integer type or has at least the precision of float64."""
    if isinstance(x.dtype, torch.dtype):
        return x.dtype in EXACT
    return x.dtype.kind != "f" or x.dtype.itemsize >= 8


def _numbers(labels: NDArray[Any], signature: Signature) -> NDArray[np.int64]:
    """Convert labels (N,) to class indices."""
    if labels.dtype.kind in "UO" and all(isinstance(label, str) for label in labels):
        for label in labels:
            if label not in signature.classes:
                raise FlowvaeError(f"c: unknown class {shown(str(label))}; {nearest(str(label), signature.classes)}")
        return np.array([signature.classes.index(label) for label in labels], np.int64)
    if labels.dtype.kind not in "biuf":
        raise FlowvaeError(f"c: labels of type {shown(labels.dtype)}; must be numbers or names of classes.")
    wrong = ~((labels >= 0) & (labels < signature.condition) & (labels == np.round(labels)))  # NaN too
    if wrong.any():
        raise FlowvaeError(
            f"c: label {labels[wrong][0]:g} with {signature.condition} classes; must be whole numbers from 0 to "
            f"{signature.condition - 1}."
        )
    return labels.astype(np.int64)


def _covariates(values: NDArray[Any], condition: Condition, signature: Signature) -> Tensor:
    """Check conditions (N, C): finite, and one-hot if they are labels."""
    if values.ndim != 2 or values.shape[1] != signature.condition or values.dtype.kind not in "biuf" or not len(values):
        forms = "labels (N,) or one-hot" if condition.on == "labels" else "covariates"
        raise FlowvaeError(
            f"c: shape {values.shape}, {values.dtype}; must be {forms} of shape (N, {signature.condition})."
        )
    if not np.isfinite(values).all():
        raise FlowvaeError(f"c: {values[~np.isfinite(values)][0]:g} among the conditions; must be finite numbers.")
    if condition.on == "labels" and not (((values == 0) | (values == 1)).all() and (values.sum(1) == 1).all()):
        raise FlowvaeError("c: some rows are not one-hot (1 at the class, else 0); correct them, or give labels (N,).")
    return torch.from_numpy(np.array(values, np.float64))
