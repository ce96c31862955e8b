"""Lazy imports of package contents on first use (PEP 562)."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

__all__ = ["lazy"]


def lazy(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Create `__getattr__` and `__dir__` of a package from the imports in its `if TYPE_CHECKING:` block.

    Type checkers read the block as ordinary imports; at run time each of its names, and each module of the package,
    is imported on first use.

        if TYPE_CHECKING:
            from flowvae.flows import MAF
        else:
            __getattr__, __dir__ = lazy(__name__)

    Args:
        package: name of the package whose `__init__` calls this.

    Returns:
        `__getattr__` and `__dir__`.
    """
    module = sys.modules[package]
    where = _imports(module.__spec__.loader.get_source(package))  # type: ignore[union-attr]

    def __getattr__(name: str) -> Any:  # noqa: N807
        if name in where:
            value = getattr(import_module(where[name]), name)
        elif name.isidentifier() and not name.startswith("_") and find_spec(f"{package}.{name}"):
            value = import_module(f"{package}.{name}")
        else:
            raise AttributeError(f"module {package!r} has no attribute {name!r}", name=name, obj=module)
        setattr(module, name, value)  # found without this function from now on
        return value

    def __dir__() -> list[str]:  # noqa: N807
        return sorted({*vars(module), *where})

    return __getattr__, __dir__


def _imports(source: str) -> dict[str, str]:
    """Map each name that is imported under `if TYPE_CHECKING:` to its module."""
    blocks = [node.body for node in ast.parse(source).body if isinstance(node, ast.If)]
    statements = [statement for block in blocks for statement in block if isinstance(statement, ast.ImportFrom)]
    return {alias.name: str(statement.module) for statement in statements for alias in statement.names}
