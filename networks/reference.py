"""References to modules that another module owns."""

from __future__ import annotations

from typing import Any

from torch import nn

__all__ = ["Reference"]


class Reference:
    """Reference to a module that another module owns; call it to get the module.

    A module that is an attribute of another is registered there, with its parameters and its state. A prior that
    depends on the guide stores a reference, so that the guide's parameters appear once.

    >>> net = nn.Linear(1, 1)
    >>> user = nn.Module()
    >>> user.guide = Reference(net)
    >>> len(list(user.parameters())), user.guide() is net
    (0, True)
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def __call__(self) -> Any:
        """Return the module."""
        return self._module
