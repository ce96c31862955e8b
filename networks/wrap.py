"""User-defined modules as networks."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import ClassVar

from torch import Size, nn

from flowvae.core.errors import FlowvaeError, shown
from flowvae.core.parts import NetworkSpec

__all__ = ["Wrap", "as_network"]


@dataclass(frozen=True)
class Wrap(NetworkSpec):
    """A user-defined `nn.Module` as a network, which maps (N, *inputs) to (N, *outputs).

    `build` returns the module itself, so that training changes it, and a second experiment with the same object starts
    from trained weights. `flowvae.networks.check_network` checks the module.

    A wrapped module has no name, so that an experiment with it can be trained but not stored. To store one, write a
    spec whose `build` makes the module:

        @dataclass(frozen=True)
        class MyNet(NetworkSpec, name="my-net"):
            width: int = 32

            def build(self, inputs, outputs=None, context=0): ...

    Args:
        module: the module.

    Raises:
        FlowvaeError: if it is not an `nn.Module`.
    """

    naming: ClassVar[str] = 'name a spec that makes the module, as in class MyNet(NetworkSpec, name="my-net")'

    module: nn.Module

    def __post_init__(self) -> None:
        if not isinstance(self.module, nn.Module):
            raise FlowvaeError(_refusal("Wrap.module", self.module, "an nn.Module"))

    def build(self, inputs: Size, outputs: Size | None = None, context: int = 0) -> nn.Module:
        """Return the module itself, for any shapes."""
        return self.module


def as_network(label: str, value: object) -> NetworkSpec:
    """Return settings of a network unchanged; wrap a module.

    Args:
        label: name of the network for error messages, such as "encoder".
        value: a `NetworkSpec` or an `nn.Module`.

    Raises:
        FlowvaeError: for any other value.
    """
    if isinstance(value, NetworkSpec):
        return value
    if isinstance(value, nn.Module):
        return Wrap(value)
    raise FlowvaeError(_refusal(label, value, "settings of a network, such as MLP(), or an nn.Module"))


def _refusal(label: str, value: object, rule: str) -> str:
    known = inspect.isclass(value) and issubclass(value, NetworkSpec | nn.Module)
    remedy = f" It is a class; create an object, {value.__name__}(…)." if known else ""  # type: ignore[attr-defined]
    return f"{label} = {shown(value)}: must be {rule}.{remedy}"
