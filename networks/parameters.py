"""Pyro `param` statements for the parameters of a torch module, without the global parameter store."""

from __future__ import annotations

import sys
from functools import partial

from pyro.distributions import constraints
from pyro.poutine.block_messenger import BlockMessenger
from pyro.poutine.runtime import _PYRO_STACK, effectful
from torch import Tensor, nn

from flowvae.core.errors import FlowvaeError

__all__ = ["declare_parameters"]


def declare_parameters(name: str, module: nn.Module) -> None:
    """Declare the parameters that a model or guide uses; call it first in the model or guide.

    `pyro.module` does the same through a store that is global to the process and keyed by name, so that a
    second model with the same names silently trains the parameters of the first. Here the parameters stay in
    their module. `SVI` still finds them: it collects the `param` statements of a trace.

    Args:
        name: prefix of the statements' names, different for model and guide.
        module: a module; its parameters that require a gradient are declared.

    Raises:
        FlowvaeError: inside `pyro.ops.jit`, the compiler of `JitTrace_ELBO` and similar losses, which looks up
            parameters by name in Pyro's store.
    """
    if not _PYRO_STACK:  # no handler would see the statements
        return
    if any(isinstance(handler, BlockMessenger) for handler in _PYRO_STACK) and _inside_pyro_jit():
        raise FlowvaeError(
            f"{type(module).__name__} under Pyro's JIT (JitTrace_ELBO): it takes parameters from Pyro's store by name, "
            "and those of this module are not there. Use flowvae.inference.CompiledTrace_ELBO, or Trace_ELBO."
        )
    for key, parameter in module.named_parameters(prefix=name):
        if not parameter.requires_grad:
            continue
        # Pyro expects an attribute `unconstrained`. An alias has it: on the parameter it would be copied and saved.
        # Pyro's own attribute is a weak reference, with which a trace could not be pickled.
        alias = parameter.detach()
        alias.unconstrained = partial(_identity, parameter)  # type: ignore[attr-defined]
        _declare(alias, constraint=constraints.real, name=key)


def _identity(value: Tensor, **_: object) -> Tensor:
    return value


_declare = effectful(_identity, type="param")


def _inside_pyro_jit() -> bool:
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_globals.get("__name__") == "pyro.ops.jit":
            return True
    return False
