"""What a model and its guide depend on, noted while they run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

__all__ = ["DependencyTracker", "Slot"]

Slot = tuple[Any, str]  # something that holds tensors by name, and a name


class DependencyTracker(Messenger):
    """Notes what a model and its guide depend on while they run: modules, parameters and changing numbers.

    Modules are those that are called, and all inside them; parameters are Pyro's `param` statements; numbers are
    those of `annealing.current`. Buffers are remembered as they were, for `undo`.
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
        """Give the buffers that the run has changed the values that they had before it."""
        for buffer, value in self._before:
            if not torch.equal(buffer, value):
                self.changed.add(id(buffer))
                buffer.copy_(value)

    def slots(self) -> list[Slot]:
        """Where the parameters and buffers are kept: they are looked up at every run, for they may be replaced."""
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
        """The parameters."""
        return [owner[key] for owner, key in self.slots() if owner[key].requires_grad]


class _Store:
    """Pyro's parameters as the optimizer sees them, whatever has happened to the store."""

    def __getitem__(self, name: str) -> Tensor:
        return pyro.get_param_store()._params[name]
