"""Checks of the data that a model holds, observes or generates."""

from __future__ import annotations

from typing import Any

import torch
from torch import Size, Tensor, nn

from flowvae.core.errors import FlowvaeError, one_line
from flowvae.networks import check_data

__all__ = ["as_observations", "batch_size"]


def as_observations(owner: object, name: str, values: Any, dims: int = 1, above: float = -float("inf")) -> Tensor:
    """Convert data to a floating-point tensor; data of another dtype get torch's default.

    Args:
        owner: the model, named in error messages.
        name: name of the data in that model.
        values: a tensor, an array or a list.
        dims: number of axes of the data.
        above: all values must be finite and greater than this.

    Raises:
        FlowvaeError: for data that are not numbers, have another number of axes, are empty or out of range.
    """
    keep = isinstance(values, Tensor) and values.is_floating_point()
    try:
        data = torch.as_tensor(values, dtype=values.dtype if keep else torch.get_default_dtype())
    except (TypeError, ValueError) as error:
        raise FlowvaeError(f"{type(owner).__name__}.{name}: {one_line(error)}; must be an array of numbers.") from error
    where = f"{type(owner).__name__}.{name}"
    if data.ndim != dims or data.numel() == 0:
        raise FlowvaeError(f"{where}: shape {tuple(data.shape)}; must have {dims} axes and hold one value or more.")
    bad = ~(torch.isfinite(data) & (data > above))
    if bad.any():
        rule = "finite" if above == -float("inf") else f"finite and above {above:g}"
        raise FlowvaeError(f"{where}: value {data[bad][0].item():g} ({int(bad.sum())} such values); must be {rule}.")
    return data.detach()


def batch_size(
    x: Tensor | None, size: int | None, model: nn.Module, shape: Size | int | None = None, c: Tensor | None = None
) -> int:
    """Determine the number of data points that a model observes or generates.

    Args:
        x: data, shape (N, *shape), of the dtype of the model's parameters.
        size: number of data points to generate, if there are no data.
        model: the model.
        shape: event shape of the data; None: any.
        c: condition, shape (N, C), which also determines the number.

    Raises:
        FlowvaeError: if none of these is given, or for data or conditions of another shape or type.
    """
    if c is not None:
        check_data("c", c, None, model)
    if x is not None:
        rows = len(check_data("x", x, shape, model))
        if c is not None and len(c) != rows:
            raise FlowvaeError(f"c: {len(c)} conditions for {rows} data points; give one condition for each.")
        return rows
    if c is not None:
        if size is not None and len(c) != size:
            raise FlowvaeError(f"c: {len(c)} conditions, size = {size}; give one for each, or leave size out.")
        return len(c)
    if size is None:
        raise FlowvaeError("model(): give data x to observe, conditions c, or size, the number of points to generate.")
    return size
