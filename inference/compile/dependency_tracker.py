"""Tracking of the modules, parameters and annealing weights that a loss depends on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

__all__ = ["DependencyTracker", "Slot"]

Slot = tuple[Any, str]  # a mapping that holds a tensor, and the tensor's key there


class DependencyTracker(Messenger):
    """A handler that collects the dependencies of a model and its guide while they run inside it.

    A module is a dependency if it, or a module that contains it, is called. The values of buffers before the module's
    first call are kept, for `undo`.

    Attributes:
        modules: the modules, in the order of their calls.
        sites: Pyro's `param` statements, by name.
        numbers: the functions passed to `annealing.current`.
        changed: identities of the buffers that the run changed; known after `undo`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.modules: dict[nn.Module, None] = {}
        self.sites: dict[str, Any] = {}
        self.numbers: list[Callable[[], float]] = []
        self.changed: set[int] = set()
        self._before: list[tuple[Tensor, Tensor]] = []

    def __enter__(self) -> Any:
        self._hook = register_module_forward_pre_hook(self._called)
        return super().__enter__()

    def __exit__(self, *args: Any) -> Any:
        self._hook.remove()
        return super().__exit__(*args)

    def _called(self, module: nn.Module, _: object) -> None:
        for part in module.modules() if module not in self.modules else ():
            if part not in self.modules:
                self.modules[part] = None
                self._before += [(value, value.clone()) for value in part._buffers.values() if value is not None]

    def _pyro_post_param(self, msg: Any) -> None:
        self.sites[msg["name"]] = msg.copy()

    def _pyro_number(self, msg: Any) -> None:
        if not any(msg["fn"] is number for number in self.numbers):
            self.numbers.append(msg["fn"])

    @torch.no_grad()
    def undo(self) -> None:
        """Restore the buffers that the run has changed."""
        for buffer, value in self._before:
            if not torch.equal(buffer, value):
                self.changed.add(id(buffer))
                buffer.copy_(value)

    def slots(self) -> list[Slot]:
        """The slots of all parameters and buffers, each tensor once: a later run may find another tensor in a slot."""
        found: dict[int, Slot] = {}
        for module in self.modules:
            for owner in (module._parameters, module._buffers):
                found |= {id(value): (owner, key) for key, value in owner.items() if value is not None}
        stored = pyro.get_param_store()._params
        for name, site in self.sites.items():
            leaf = site["value"].unconstrained()
            if stored.get(name) is leaf:
                found[id(leaf)] = (_Store(), name)
            else:
                found.setdefault(id(leaf), ({name: leaf}, name))
        return list(found.values())

    def leaves(self) -> list[Tensor]:
        """The parameters that require a gradient."""
        return [owner[key] for owner, key in self.slots() if owner[key].requires_grad]


class _Store:
    """Pyro's parameter store as a mapping to unconstrained parameters, the leaves that the optimizer sees."""

    def __getitem__(self, name: str) -> Tensor:
        return pyro.get_param_store()._params[name]
