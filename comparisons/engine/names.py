"""Checks of names and paths in stored results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from flowvae.core.errors import FlowvaeError, nearest, shown

__all__ = ["check_name", "inside", "named"]

LONGEST = 100  # characters; file systems allow 255 bytes, including prefix and suffix


T = TypeVar("T")


def named(what: str, value: str | T, known: Mapping[str, T]) -> T:
    """Look up a name; return any other object unchanged.

    Raises:
        FlowvaeError: for an unknown name.
    """
    if not isinstance(value, str):
        return value
    if value not in known:
        raise FlowvaeError(f"{what} {shown(value)}: {nearest(value, known)}")
    return known[value]


def check_name(what: str, name: object) -> str:
    """Return a name, after checking that it can be used as a file name.

    Raises:
        FlowvaeError: for a path, the name of a hidden file, and any other object that is not a name.
    """
    text = name if isinstance(name, str) else ""
    if not 0 < len(text) <= LONGEST or text.startswith(".") or not text.isprintable() or {"/", "\\"} & set(text):
        raise FlowvaeError(
            f"{what} {shown(name)}: must be a name of 1 to {LONGEST} characters, without / and \\, that does not begin "
            "with a dot."
        )
    return text


def inside(folder: Path, file: Path) -> Path:
    """Return the path of a file, after checking that it lies in a folder.

    Raises:
        FlowvaeError: if the file, or a folder on its path, is a link that leads out of the folder.
    """
    if not file.resolve().is_relative_to(folder.resolve()):
        raise FlowvaeError(f"{file}: leads out of {folder}; replace the link with a copy of the file.")
    return file
