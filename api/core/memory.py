"""What is built must fit into the machine's memory: too much of it is refused before it is taken."""

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

TRAINING = 4  # tensors a parameter: itself, its gradient and Adam's two moments
SMALL = 1e8  # bytes that every machine has


def memory() -> float:
    """Bytes of memory that this process may have: the machine's or, where that is less, its control group's."""
    try:
        least = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, OSError, ValueError):  # a system that does not say
        return float("inf")
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            least = min(least, float(Path(file).read_text()))
        except (OSError, ValueError):  # no such file, or no limit ("max")
            continue
    return least


def size(number: float) -> str:
    """Bytes in a unit in which the number is below a thousand.

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
    """Refuse what needs more bytes than this process may have.

    Raises:
        FlowvaeError: with both numbers.
    """
    if needed > SMALL and needed > (there := memory()):
        raise FlowvaeError(f"{what}: needs {size(needed)} of memory, and there are {size(there)}; {remedy}.")


@contextmanager
def watched(what: str, remedy: str) -> Iterator[None]:
    """Inside the block, in which modules are built, refuse a tensor with which their training would not fit.

    The sizes come from torch's meta device, which computes shapes alone. What is freed again counts too, which is
    little where modules are built.

    Raises:
        FlowvaeError: before the memory is taken, with the number of bytes.
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
        self.made = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.made += _bytes(func, args, kwargs or {})
        check_memory(self.what, TRAINING * self.made, self.remedy)
        return func(*args, **kwargs or {})


def _bytes(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Bytes of the tensors that an operation makes; 0 where they are views, or their shapes depend on values."""
    schema = operation._schema
    if any(result.alias_info is not None for result in schema.returns):
        return 0
    args, kwargs = tree_map(_on_meta, (args, kwargs))
    if any(argument.name == "device" for argument in schema.arguments):
        kwargs["device"] = "meta"
    try:
        made = operation(*args, **kwargs)
    except RuntimeError as error:
        if "meta" in str(error).lower():  # it cannot be computed without values
            return 0
        raise
    return sum(tensor.numel() * tensor.element_size() for tensor in tree_leaves(made) if isinstance(tensor, Tensor))


def _on_meta(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
