"""Entry point of scripts: a one-line message for errors that the user can fix, and an exit status."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn

from flowvae.core.errors import FlowvaeError, one_line, shown_path
from flowvae.core.interruption import Interruption

__all__ = ["line_of", "run_script"]


def line_of(error: object) -> str:
    r"""Put a message on one line, with unprintable characters (line breaks, terminal escapes) escaped.

    >>> line_of(FileNotFoundError(2, "No such file or directory", "runs/a\nb"))
    "'runs/a\\nb': No such file or directory"
    """
    if isinstance(error, OSError):
        where = f"{shown_path(error.filename)}: " if error.filename is not None else ""
        error = f"{where}{error.strerror or one_line(error)}"
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in str(error))


def run_script(main: Callable[[], int]) -> NoReturn:
    """Run the main function of a module as a program; errors that the user can fix become a one-line message."""
    with Interruption("interrupted.") as interruption:
        try:
            interruption.orderly = True
            sys.exit(main())
        except BaseException as error:
            if interruption.happened or isinstance(error, KeyboardInterrupt):
                sys.exit(interruption.say())
            if isinstance(error, FlowvaeError | OSError):
                sys.exit(line_of(error))
            raise
