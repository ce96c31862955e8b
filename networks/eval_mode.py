"""Evaluation mode while a measure is computed."""

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
    """Set every module inside the parts to evaluation mode, and restore its previous mode afterwards.

    In training mode dropout adds noise to a measure, batch normalization makes the density of a data point depend on
    the others in its batch, and test data change the running statistics.

    Args:
        parts: modules; mappings, lists and tuples of them; bound methods and `functools.partial` objects, such as those
            of Pyro's handlers, which are searched for modules. Other objects are ignored, such as plain functions and
            the modules that they call.

    >>> net = nn.Dropout()
    >>> with eval_mode(net):
    ...     net.training
    False
    >>> net.training
    True
    """
    before = {module: module.training for part in parts for module in _modules(part)}
    # sets the flag itself: an overridden eval() may do more than train() undoes
    try:
        for module in before:
            module.training = False
        yield
    finally:
        for module, training in before.items():
            module.training = training


def in_eval_mode(function: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function to run with every module among its arguments in evaluation mode; see `eval_mode`."""

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
