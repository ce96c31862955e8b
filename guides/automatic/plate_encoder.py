"""Features of the data points of a plate, computed by a network from a model's arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Size, Tensor, nn

from flowvae.core.errors import FlowvaeError, one_line, shown
from flowvae.core.parts import NetworkSpec
from flowvae.networks import as_network, check_data

__all__ = ["PlateEncoder", "check_encoders", "has_rows"]

SIGNATURE = (
    "an nn.Module is called as the model is; Wrap(module) and other settings of a network read the model's first "
    "argument alone"
)


def check_encoders(encoder: object) -> dict[str, NetworkSpec | nn.Module]:
    """Check the setting `AutoFlow.encoder`, and return it as a dict.

    Raises:
        FlowvaeError: if it is not None or a mapping from names of plates to networks.
    """
    if encoder is None:
        return {}
    if not isinstance(encoder, Mapping):
        raise FlowvaeError(
            f"AutoFlow.encoder = {shown(encoder)}: must be networks by the names of plates, such as {{'data': MLP()}}."
        )
    for plate, network in encoder.items():
        if not isinstance(plate, str):
            raise FlowvaeError(f"AutoFlow.encoder: the name of a plate is {shown(plate)}; must be a string.")
        as_network(f"AutoFlow.encoder[{plate!r}]", network)
    return dict(encoder)


def has_rows(value: object, size: int) -> bool:
    """Whether an argument of a model is a tensor with a row for each of the plate's points."""
    return isinstance(value, Tensor) and value.ndim > 0 and len(value) == size


class PlateEncoder(nn.Module):
    """Network of a model's arguments that gives features (n, F) of the n points that a run takes from a plate.

    Of tensors with a row for each of the plate's points, the network gets the rows of the run's subsample; it gets all
    other arguments unchanged, such as data that come in batches. A network may also give features (N, F) of all points,
    whose rows are then selected: its data may have another layout, such as time first.

    Args:
        plate: name of the plate.
        network: settings, built for the model's first argument (N, *event) and applied to it, or a module, called as
            the model is.
        args: the model's arguments, of which the first one gives the event shape.

    Raises:
        FlowvaeError: for settings, if the first argument is not a floating-point tensor with a row for each point.
    """

    def __init__(self, plate: str, network: NetworkSpec | nn.Module, args: tuple[Any, ...]) -> None:
        super().__init__()
        self.plate = plate
        self.event: Size | None = None  # of the first argument, if the network reads it alone
        if isinstance(network, nn.Module):
            self.network = network
        else:
            x = self._first(args)
            self.event = x.shape[1:]
            self.network = network.build(self.event).to(x)
        self.features: int | None = None  # F, from the first run

    def forward(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], size: int, index: Tensor) -> Tensor:
        """Compute the features (n, F).

        Args:
            args: the model's arguments.
            kwargs: its keyword arguments.
            size: N, size of the plate.
            index: the points of this run, shape (n,).

        Raises:
            FlowvaeError: if the network fails, or does not give (n, F) or (N, F), with F as in the first run.
        """
        if self.event is not None:
            args, kwargs = (self._first(args),), {}
        args = tuple(_rows_of(value, size, index) for value in args)
        kwargs = {name: _rows_of(value, size, index) for name, value in kwargs.items()}
        try:
            found: object = self.network(*args, **kwargs)
        except Exception as error:  # a user's forward may raise anything
            remedy = f"; {SIGNATURE}" if isinstance(error, TypeError) else ""
            raise FlowvaeError(
                f"{self._name}: {type(error).__name__} for {_shapes(args, kwargs)}: "
                f"{one_line(error).rstrip('.')}{remedy}."
            ) from error
        return _rows_of(self._checked(found, size, len(index)), size, index)

    def _checked(self, found: object, size: int, taken: int) -> Tensor:
        rows = f"({taken}, F)" + (f" or ({size}, F)" if size != taken else "")
        if not isinstance(found, Tensor) or not found.is_floating_point():
            given = f"a tensor of {found.dtype}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
        elif found.ndim < 2 or len(found) not in (taken, size):
            given = f"shape {tuple(found.shape)}"
        else:
            found = found.flatten(1)
            if self.features is None:
                self.features = found.shape[1]
            if found.shape[1] == self.features:
                return found
            given, rows = f"{found.shape[1]} features", f"{self.features}, as in the first run"
        raise FlowvaeError(
            f"{self._name}: gives {given} for {taken} of the plate's {size} points; must give features {rows}."
        )

    def _first(self, args: tuple[Any, ...]) -> Tensor:
        if not args:
            raise FlowvaeError(
                f"AutoFlow.encoder[{self.plate!r}]: settings of a network read the model's first argument, and this "
                "call has none; pass the data by position, or give an nn.Module, which is called as the model is."
            )
        x = args[0]
        column = isinstance(x, Tensor) and x.ndim == 1
        return check_data("the model's first argument", x[:, None] if column else x, self.event, self._built)

    @property
    def _built(self) -> nn.Module | None:
        return getattr(self, "network", None)

    @property
    def _name(self) -> str:
        return f"AutoFlow.encoder[{self.plate!r}] ({type(self.network).__name__})"


def _rows_of(value: Any, size: int, index: Tensor) -> Any:
    """Select the rows of a plate's subsample from a tensor with a row for each of the plate's `size` points."""
    if not has_rows(value, size):
        return value
    return value.index_select(0, index.to(value.device))


def _shapes(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    parts = [_shape(value) for value in args] + [f"{name} = {_shape(value)}" for name, value in kwargs.items()]
    return f"({', '.join(parts)})"


def _shape(value: object) -> str:
    if isinstance(value, Tensor):
        return f"tensor {tuple(value.shape)}"
    return type(value).__name__
