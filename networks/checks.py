"""The check of the data that a model, a guide or a measure is called with."""

from __future__ import annotations

from torch import Tensor, nn

from flowvae.core.errors import FlowvaeError, shown
from flowvae.networks.mlp import Standardize

__all__ = ["check_columns", "check_rows", "columns_of"]


def check_rows(name: str, x: object, columns: int | None = None, module: nn.Module | None = None) -> Tensor:
    """The data, if they are a floating-point tensor of shape (N, D) with N ≥ 1.

    A single datum of shape (D,) would be taken for D data, and a column of shape (N, 1) is spread over all D.

    Args:
        name: of the data, for the message.
        x: the data.
        columns: D; None: any.
        module: what is called with them, whose parameters say the type; None: any floating-point type.

    Raises:
        FlowvaeError: for anything else.
    """
    if not isinstance(x, Tensor):
        raise FlowvaeError(f"{name} = {shown(x)}: must be a tensor of shape (N, D); torch.as_tensor makes it.")
    shape = tuple(x.shape)
    if x.ndim != 2:
        one = f"; {name}[None] makes a batch of one datum" if x.ndim == 1 else ""
        raise FlowvaeError(f"{name}: shape {shape}; must be (N, {columns or 'D'}), one row a datum{one}.")
    if not len(x):
        raise FlowvaeError(f"{name}: shape {shape}; there are no data in it.")
    check_columns(name, x, columns, module)
    return x


def check_columns(name: str, x: Tensor, columns: int | None, module: nn.Module | None) -> None:
    """The part of `check_rows` that holds for data of any shape (..., D).

    Raises:
        FlowvaeError: for another number of columns, or another type.
    """
    if columns is not None and x.shape[-1:] != (columns,):
        raise FlowvaeError(f"{name}: shape {tuple(x.shape)}; must be (N, {columns}), as the model was built.")
    parameter = None if module is None else next(module.parameters(), None)
    if parameter is not None and x.dtype != parameter.dtype:
        wanted = parameter.dtype
        raise FlowvaeError(f"{name}: {x.dtype}; must be {wanted}, as the parameters are; {name}.to({wanted}) does it.")
    if not x.is_floating_point():
        raise FlowvaeError(f"{name}: {x.dtype}; must be of a floating-point type; {name}.float() does it.")


def columns_of(network: nn.Module) -> int | None:
    """The number D of columns that a network takes, where its first layer says so; else None."""
    if isinstance(network, nn.Sequential) and len(network):
        first, *others = network
        scalar = isinstance(first, Standardize) and not first.center.ndim
        return columns_of(nn.Sequential(*others) if scalar else first)
    if isinstance(network, Standardize):
        return len(network.center) if network.center.ndim else None
    return network.in_features if isinstance(network, nn.Linear) else None
