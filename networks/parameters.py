"""Pyro `param` statements for the parameters of a torch module, without the global parameter store."""

from __future__ import annotations

import weakref

from pyro.distributions import constraints
from pyro.poutine.runtime import am_i_wrapped, effectful
from torch import Tensor, nn

__all__ = ["declare_parameters"]


def declare_parameters(name: str, module: nn.Module) -> None:
    """Tell Pyro which parameters a model or guide uses; call it where the model or guide begins.

    `pyro.module` does the same through a store that is global to the process and goes by names, so that a
    second model of the same names silently trains the first one's parameters. Here the parameters stay in
    their module, and `SVI` finds them all the same: it collects the `param` statements of a trace.

    Args:
        name: prefix of the statements' names, different for model and guide.
        module: a module; its parameters that require a gradient are declared.
    """
    if not am_i_wrapped():  # nobody listens
        return
    for key, parameter in module.named_parameters(prefix=name):
        if not parameter.requires_grad:
            continue
        # An alias carries the pointer that Pyro expects: on the parameter itself it would prevent pickling.
        alias = parameter.detach()
        alias.unconstrained = weakref.ref(parameter)  # type: ignore[attr-defined]
        _declare(alias, constraint=constraints.real, name=key)


def _give(value: Tensor, **_: object) -> Tensor:
    return value


_declare = effectful(_give, type="param")
