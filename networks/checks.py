"""Checks of the data that a model, a guide or a measure is called with."""

from __future__ import annotations

import math

from torch import Size, Tensor, nn

from flowvae.core.errors import FlowvaeError, shown
from flowvae.networks.mlp import Standardize

__all__ = ["check_data", "check_event_shape", "input_shape"]


def check_data(name: str, x: object, shape: Size | int | None = None, module: nn.Module | None = None) -> Tensor:
    """Check that data are a floating-point tensor of shape (N, *shape) with N ≥ 1, and return them.

    Without this check, one data point of shape (D,) would count as D data points, and a column of shape (N, 1) would be
    broadcast to all D.

    Args:
        name: name of the data, for error messages.
        x: the data.
        shape: event shape of the data, or D for (D,); None: any.
        module: the module that takes the data, which must have the dtype of its parameters; None: any floating-point
            type.

    Raises:
        FlowvaeError: for data of another type or shape, or no data points.
    """
    event = Size((shape,)) if isinstance(shape, int) else shape
    wanted = "(N, *event shape)" if event is None else _wanted(event)
    if not isinstance(x, Tensor):
        raise FlowvaeError(f"{name} = {shown(x)}: must be a tensor of shape {wanted}; use torch.as_tensor.")
    if x.ndim < 2 or x.shape == event:
        one = f"; {name}[None] makes a batch of one data point" if x.ndim and x.shape == (event or x.shape) else ""
        raise FlowvaeError(f"{name}: shape {tuple(x.shape)}; must be {wanted}, the first axis for data points{one}.")
    if not len(x):
        raise FlowvaeError(f"{name}: shape {tuple(x.shape)}; must hold one data point or more.")
    if event is not None and x.ndim != 1 + len(event):
        same = math.prod(x.shape[1:]) == math.prod(event)
        remedy = f"; use {name}.reshape(-1, {', '.join(map(str, event))})" if same else ""
        raise FlowvaeError(f"{name}: shape {tuple(x.shape)}; must be {wanted}, as the model was built{remedy}.")
    check_event_shape(name, x, event, module)
    return x


def check_event_shape(name: str, x: Tensor, shape: Size | int | None, module: nn.Module | None = None) -> None:
    """Check event shape and dtype of data with any leading axes, (..., *shape), as in `check_data`.

    Raises:
        FlowvaeError: for another event shape, or another type.
    """
    event = Size((shape,)) if isinstance(shape, int) else shape
    if event is not None and x.shape[max(0, x.ndim - len(event)) :] != event:
        raise FlowvaeError(f"{name}: shape {tuple(x.shape)}; must be {_wanted(event)}, as the model was built.")
    parameter = None if module is None else next(module.parameters(), None)
    if parameter is not None and x.dtype != parameter.dtype:
        wanted = parameter.dtype
        raise FlowvaeError(f"{name}: {x.dtype}; must be {wanted}, as the parameters are; use {name}.to({wanted}).")
    if not x.is_floating_point():
        raise FlowvaeError(f"{name}: {x.dtype}; must be of a floating-point type; use {name}.float().")


def input_shape(network: nn.Module) -> Size | None:
    """Find the event shape of a network's inputs, if known from the network or its first layer; else None.

    Networks built by flowvae's specs have it as an attribute `inputs`.
    """
    shape = getattr(network, "inputs", None)
    if isinstance(shape, Size):
        return shape
    if isinstance(network, nn.Sequential):
        layers = (layer for layer in network if not (isinstance(layer, Standardize) and not layer.center.ndim))
        first = next(layers, None)  # scalar units fit every shape
        return None if first is None else input_shape(first)
    if isinstance(network, Standardize):
        return network.center.shape if network.center.ndim else None
    return Size((network.in_features,)) if isinstance(network, nn.Linear) else None


def _wanted(event: Size) -> str:
    return f"({', '.join(map(str, ('N', *event)))})"
