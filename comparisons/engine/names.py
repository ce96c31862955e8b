"""Names in stored results: an arm, a measure or a cell is the name of a file in one folder, not a path."""

from __future__ import annotations

from pathlib import Path

from flowvae.core.errors import FlowvaeError, shown

__all__ = ["check_name", "inside"]

LONGEST = 100  # characters; a file system takes 255 bytes, with what stands before and after the name


def check_name(what: str, name: object) -> str:
    """A name that can be that of a file.

    Raises:
        FlowvaeError: for a path, a hidden file, and what is no name at all.
    """
    text = name if isinstance(name, str) else ""
    if not 0 < len(text) <= LONGEST or text.startswith(".") or not text.isprintable() or {"/", "\\"} & set(text):
        raise FlowvaeError(
            f"{what} {shown(name)}: must be a name of 1 to {LONGEST} characters, without / and \\, that does not begin "
            "with a dot."
        )
    return text


def inside(folder: Path, file: Path) -> Path:
    """A file of a folder, as it is.

    Raises:
        FlowvaeError: if a link, of the file or of a folder on its way, leads out of the folder.
    """
    if not file.resolve().is_relative_to(folder.resolve()):
        raise FlowvaeError(f"{file}: leads out of {folder}; put a copy of the file in place of the link.")
    return file
