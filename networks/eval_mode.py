"""Evaluation mode for as long as something is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial, wraps
from types import MethodType
from typing import ParamSpec, TypeVar

from torch import nn

__all__ = ["eval_mode", "in_eval_mode"]

P = ParamSpec("P")
T = TypeVar("T")


@contextmanager
def eval_mode(*parts: object) -> Iterator[None]:
    """Evaluation mode for every module inside the parts; afterwards each module is in the mode that it had before.

    In training mode dropout disturbs a measure, batch normalization makes a datum's density depend on the data beside
    it, and what is measured moves the running statistics.

    Args:
        parts: modules; mappings, lists and tuples of them; bound methods and `functools.partial` objects, as Pyro's
            handlers make them, are searched for modules. Of anything else nothing is changed: a plain function does
            not say which modules it calls.

    >>> net = nn.Dropout()
    >>> with eval_mode(net):
    ...     net.training
    False
    >>> net.training
    True
    """
    before = {module: module.training for part in parts for module in _modules(part)}
    # the flag itself and not eval(), whose overrides may do more than train() could undo
    try:
        for module in before:
            module.training = False
        yield
    finally:
        for module, training in before.items():
            module.training = training


def in_eval_mode(function: Callable[P, T]) -> Callable[P, T]:
    """The function with every module among its arguments in evaluation mode while it runs, see `eval_mode`."""

    @wraps(function)
    def measured(*args: P.args, **kwargs: P.kwargs) -> T:
        with eval_mode(args, kwargs):
            return function(*args, **kwargs)

    return measured


def _modules(part: object) -> Iterator[nn.Module]:
    if isinstance(part, nn.Module):
        yield from part.modules()
    elif isinstance(part, Mapping):
        yield from _modules(tuple(part.values()))
    elif isinstance(part, tuple | list):
        for one in part:
            yield from _modules(one)
    elif isinstance(part, partial):
        yield from _modules((part.func, part.args, part.keywords))
    elif isinstance(part, MethodType):
        yield from _modules(part.__self__)
