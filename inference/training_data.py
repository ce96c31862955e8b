"""The data of a training as a batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Size, Tensor, nn

from flowvae.core.errors import FlowvaeError, shown
from flowvae.core.memory import check_memory
from flowvae.data.batch import Batch, Source, redrawn
from flowvae.data.sources import MappedArray

__all__ = ["TrainingData", "check_same_kind", "on_device", "training_data"]

TrainingData = np.ndarray[Any, Any] | Tensor | Source | Batch

FINEST = 1e-3  # largest tolerated rounding error of a cast, in standard deviations


def training_data(name: str, data: object, guide: nn.Module) -> Batch:
    """Convert data to a batch whose parts are tensors or a source.

    An array takes the floating-point type of the guide's parameters; a memory-mapped one is read batch by batch.

    Args:
        name: name of the data in messages.
        data: (N, *event) as an array, tensor or `Source`, or a `Batch` of one and a condition (N, C).
        guide: Pyro guide; its method `check`, if it has one, checks the data.

    Raises:
        FlowvaeError: for other types, data without values, a condition of another length, or an array that the cast
            would round too much.
    """
    given = data if isinstance(data, Batch) else Batch(data)  # type: ignore[arg-type]
    parameter = next(guide.parameters(), None)
    dtype = torch.get_default_dtype() if parameter is None else parameter.dtype
    mapped = isinstance(given.x, np.memmap) and dtype == torch.get_default_dtype()
    x = MappedArray(given.x) if mapped else _of_array(name, given.x, dtype)  # type: ignore[arg-type]
    c = None if given.c is None else _of_array(f"{name}.c", given.c, dtype)
    if not isinstance(x, Tensor | Source) or not Size(x.shape).numel() or not len(x.shape):
        raise FlowvaeError(f"{name} = {shown(x)}: must be an array, tensor or source that holds data, shape (N, …).")
    if c is not None and (not isinstance(c, Tensor) or c.ndim != 2 or len(c) != len(x)):
        raise FlowvaeError(
            f"{name}.c = {shown(c)}: must be a tensor with a row for each of the {len(x)} data points, shape "
            f"({len(x)}, C)."
        )
    if check := getattr(guide, "check", None):
        check(x if isinstance(x, Tensor) else x[torch.arange(1)])
    return Batch(x, c)


class OnDevice:
    """A source whose data points are moved to a device.

    Args:
        source: source of data points on the CPU.
        device: the device.
    """

    def __init__(self, source: Source, device: torch.device) -> None:
        self.source = source
        self.device = device

    @property
    def shape(self) -> Size:
        return Size(self.source.shape)

    @property
    def dtype(self) -> torch.dtype:
        return self.source.dtype

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: Tensor) -> Tensor:
        return self.source[index.cpu()].to(self.device)

    def batches(self, order: Iterable[Tensor]) -> Iterator[Tensor]:
        for x in self.source.batches(index.cpu() for index in order):
            yield x.to(self.device)

    def redrawn(self, seed: int) -> OnDevice:
        """The same data points, with random values redrawn from a seed."""
        return OnDevice(redrawn(self.source, seed), self.device)


def on_device(data: Batch, device: torch.device) -> Batch:
    """Move data to a device: a tensor or a source that can move as a whole, any other source batch by batch."""
    moved = data.to(device)
    return moved if isinstance(moved.x, Tensor) else Batch(OnDevice(moved.x, device), moved.c)


def check_same_kind(train: Batch, valid: Batch) -> None:
    """Check that validation data have the event shape and condition of the training data.

    Raises:
        FlowvaeError: for another event shape or condition.
    """
    for what, one, other in (("x", train.x, valid.x), ("c", train.c, valid.c)):
        shapes = [None if part is None else tuple(part.shape[1:]) for part in (one, other)]
        if shapes[0] != shapes[1]:
            held = ["none" if shape is None else f"shape (N, {', '.join(map(str, shape))})" for shape in shapes]
            raise FlowvaeError(f"valid.{what}: {held[1]}; must be of the kind of train.{what}: {held[0]}.")


def _of_array(name: str, value: object, dtype: torch.dtype) -> Any:
    """Convert an array to a tensor, real numbers to this type; other objects are unchanged."""
    if not isinstance(value, np.ndarray):
        return value
    if value.dtype.kind not in "fiub":
        raise FlowvaeError(f"{name} = {shown(value)}: must hold numbers.")
    check_memory(name, value.nbytes, "give it as a source, which is read batch by batch")
    tensor = torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("=")))
    cast = tensor.to(dtype)
    if tensor.dtype != dtype and tensor.dtype.itemsize > 2 and len(tensor):
        exact = tensor.double()
        lost, spread = (cast.double() - exact).abs().amax(0), exact.std(0, correction=0)
        if bool(((lost > FINEST * spread) & (spread > 0)).any()):
            raise FlowvaeError(
                f"{name} = {shown(value)}: {dtype} rounds it by up to {lost.max().item():.2g}, which is more than "
                f"{FINEST:g} of a standard deviation; subtract the mean and divide by the standard deviation first."
            )
    return cast
