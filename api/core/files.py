"""Atomic file writes."""

from __future__ import annotations

import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EEXIST, ELOOP
from pathlib import Path
from typing import TYPE_CHECKING

from flowvae.core.errors import FlowvaeError, shown, shown_path

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["as_path", "atomic_write", "is_temporary", "temporary_name", "write_table"]


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; the file replaces `path` when it is complete and on disk.

    The temporary file is in the same directory, has an unpredictable name and is created exclusively, so that a planted
    link is not followed. An existing file keeps its mode; a new file gets the default mode of the umask. A symbolic
    link is an error: replacing it would separate two names of one file, and writing to its target would change a file
    elsewhere, such as an object of a content-addressed store.

    Raises:
        OSError: for a symbolic link, a path that is not a regular file, and a path that cannot be written; the previous
            file is kept.
    """
    temporary = path.with_name(temporary_name(path.name))
    try:
        mode = _mode(path)
        # not readable by others until it has the mode of the file that it replaces
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666 if mode is None else 0o600))
        try:
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            if mode is not None:
                temporary.chmod(mode)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(temporary), temporary):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None


def temporary_name(name: str) -> str:
    """Return an unpredictable temporary name for a file or directory; a long name is shortened."""
    return f".{name[:50]}.{secrets.token_hex(8)}.tmp"


def is_temporary(path: Path) -> bool:
    """Whether the name was made by `temporary_name`, as for a file left by an interrupted write."""
    return re.fullmatch(r"\..+\.[0-9a-f]{16}\.tmp", path.name) is not None


def write_table(path: Path, frame: pd.DataFrame) -> None:
    """Write a table as CSV, without its index."""
    with atomic_write(path) as temporary:
        frame.to_csv(temporary, index=False)


def _mode(path: Path) -> int | None:
    """Return the permissions of the regular file at a path; None if there is no file."""
    try:
        found = path.lstat().st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISLNK(found):
        raise OSError(ELOOP, "is a symbolic link; name its target, or delete the link", str(path))
    if not stat.S_ISREG(found):
        raise OSError(EEXIST, "is not a regular file; delete it, or name another", str(path))
    return stat.S_IMODE(found)


def as_path(value: str | Path) -> Path:
    """Convert a user's path to a `Path`; `~` is expanded.

    Raises:
        FlowvaeError: for a path that is not valid or not UTF-8, or that refers to a home or working directory that does
            not exist.
    """
    if not isinstance(value, str | Path):
        raise FlowvaeError(f"{shown(value)}: must be a path.")
    text = str(value)
    if "\0" in text or text.encode(errors="replace").decode() != text:
        raise FlowvaeError(f"{shown(text)}: a path must be in UTF-8 and without NUL; name another file or directory.")
    try:
        path = Path(text).expanduser()
        if not path.is_absolute():
            Path.cwd()  # fails where it has been deleted
        path.lstat()
    except FileNotFoundError as error:
        if error.filename is None:
            raise FlowvaeError(f"{text}: the working directory no longer exists; change to one that does.") from None
    except RuntimeError:
        raise FlowvaeError(f"{text}: no such home directory; write the full path.") from None
    except OSError as error:
        raise FlowvaeError(f"{shown_path(text)}: {error.strerror}; name another file or directory.") from None
    return path
