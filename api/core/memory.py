"""Checks that data and networks fit into memory, before the memory is allocated."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from flowvae.core.errors import FlowvaeError

__all__ = ["check_memory", "memory", "size", "watched"]

TRAINING = 4  # tensors per parameter in training: itself, its gradient and Adam's two moments
SMALL = 1e8  # bytes; smaller requests are not checked


def memory() -> float:
    """Return the memory available to this process in bytes: the machine's or, if less, its control group's limit."""
    try:
        least = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, OSError, ValueError):  # not known on this system
        return float("inf")
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            least = min(least, float(Path(file).read_text()))
        except (OSError, ValueError):  # no such file, or no limit ("max")
            continue
    return least


def size(number: float) -> str:
    """Format a number of bytes in the unit in which it is below a thousand.

    >>> size(3.2e10)
    '32 GB'
    """
    unit = "bytes"
    for larger in ("kB", "MB", "GB", "TB", "PB"):
        if number < 1000:
            break
        number, unit = number / 1000, larger
    return f"{number:.3g} {unit}"


def check_memory(what: str, needed: float, remedy: str) -> None:
    """Raise an error if something needs more bytes than are available to this process.

    Raises:
        FlowvaeError: if the memory does not suffice, with both numbers.
    """
    if needed > SMALL and needed > (available := memory()):
        raise FlowvaeError(f"{what}: needs {size(needed)} of memory, of {size(available)} available; {remedy}.")


@contextmanager
def watched(what: str, remedy: str) -> Iterator[None]:
    """Check that the training of the modules that are built inside the block fits into memory.

    Sizes are computed on torch's meta device before the memory is allocated. Temporary memory is counted too; it is
    small when modules are built.

    Raises:
        FlowvaeError: before the memory is allocated, with the number of bytes.
    """
    try:
        with _Watch(what, remedy):
            yield
    except (RuntimeError, MemoryError, OverflowError) as error:
        if not isinstance(error, MemoryError) and not any(word in str(error) for word in ("verflow", "too large")):
            raise
        raise FlowvaeError(f"{what}: needs more memory than can be addressed; {remedy}.") from None


class _Watch(TorchDispatchMode):
    def __init__(self, what: str, remedy: str) -> None:
        super().__init__()
        self.what, self.remedy = what, remedy
        self.allocated = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.allocated += _bytes(func, args, kwargs or {})
        check_memory(self.what, TRAINING * self.allocated, self.remedy)
        return func(*args, **kwargs or {})


def _bytes(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Return the size of an operation's outputs in bytes; 0 for views, and for shapes that depend on values."""
    schema = operation._schema
    if any(result.alias_info is not None for result in schema.returns):
        return 0
    args, kwargs = tree_map(_on_meta, (args, kwargs))
    if any(argument.name == "device" for argument in schema.arguments):
        kwargs["device"] = "meta"
    try:
        outputs = operation(*args, **kwargs)
    except RuntimeError as error:
        if "meta" in str(error).lower():  # the shapes depend on values
            return 0
        raise
    return sum(tensor.numel() * tensor.element_size() for tensor in tree_leaves(outputs) if isinstance(tensor, Tensor))


def _on_meta(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
