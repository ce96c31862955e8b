"""The data of a model: those that it holds, checked once, and those that it observes or generates in a call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from flowvae.core.errors import FlowvaeError, one_line
from flowvae.networks import check_rows

__all__ = ["as_observations", "batch_size"]


def as_observations(owner: object, name: str, values: Any, dims: int = 1, above: float = -float("inf")) -> Tensor:
    """Data as a tensor of reals: a floating-point tensor keeps its dtype, anything else takes torch's default.

    Args:
        owner: the model, for the message.
        name: of the data in that model.
        values: a tensor, an array or a list.
        dims: how many axes the data have.
        above: all values are finite and greater than this.

    Raises:
        FlowvaeError: for another number of axes, no values at all, or values out of range.
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


def batch_size(x: Tensor | None, size: int | None, model: nn.Module, columns: int | None = None) -> int:
    """The number of data that a model observes or generates.

    Args:
        x: data, shape (N, D), of the type of the model's parameters.
        size: how many are generated, if there are no data.
        model: the model.
        columns: D; None: any.

    Raises:
        FlowvaeError: if neither data nor a size are given, or for data of another shape or type.
    """
    if x is not None:
        return len(check_rows("x", x, columns, model))
    if size is None:
        raise FlowvaeError("model(x=None, size=None): give data x to observe, or a size to generate.")
    return size
