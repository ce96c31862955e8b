"""Handling of Ctrl-C in programs: a one-line message and exit status 130, without a traceback."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import Any

__all__ = ["Interruption"]

STATUS = 130  # 128 + SIGINT
PATIENCE = 5.0  # seconds that an orderly shutdown may take


class Interruption:
    """Context manager that handles Ctrl-C.

    The first Ctrl-C raises `KeyboardInterrupt`, so that files, bars and processes are closed; `happened` is then true,
    since it may surface as another error. A second one, more than five seconds later, ends the process at once. While
    `orderly` is false, the first one already does so: imports turn `KeyboardInterrupt` into other errors, and one that
    is raised during interpreter shutdown cannot be caught.

    Args:
        sentence: the message.
        program: whether the process runs nothing but this program. `orderly` is then false until the program sets it
            and again after the context, and the handler stays installed.
    """

    def __init__(self, sentence: str, program: bool = True) -> None:
        self.sentence = sentence
        self.program = program
        self.orderly = not program
        self._happened_at: float | None = None
        self._said = False
        self._before: tuple[Any, Any] | None = None

    def __enter__(self) -> Interruption:
        ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # by nohup, or a shell in the background
        if not ignored and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self), sys.unraisablehook
            sys.unraisablehook = self._unraisable
        return self

    def __exit__(self, *_: object) -> None:
        if self.program:
            self.orderly = False
        elif self._before is not None:
            signal.signal(signal.SIGINT, self._before[0])
            sys.unraisablehook = self._before[1]

    def __call__(self, *_: object) -> None:
        """Handle the signal."""
        if self._happened_at is None and self.orderly:
            self._happened_at = time.monotonic()
            raise KeyboardInterrupt
        if self._happened_at is None or time.monotonic() - self._happened_at > PATIENCE:
            self._end()

    @property
    def happened(self) -> bool:
        """Whether Ctrl-C has raised `KeyboardInterrupt`."""
        return self._happened_at is not None

    def say(self) -> int:
        """Print the message, unless it was printed before, and return the exit status."""
        if not self._said:
            self._said = True
            with suppress(OSError):  # such as a closed pipe
                print(self.sentence, file=sys.stderr, flush=True)
        return STATUS

    def _end(self) -> None:
        with suppress(Exception):  # the interrupted operation may have been a write to it
            sys.stdout.flush()
        if not self._said:
            start = b"\n" if os.isatty(2) else b""  # after a bar and the ^C of a terminal
            with suppress(OSError):
                os.write(2, start + self.sentence.encode(errors="backslashreplace") + b"\n")
        os._exit(STATUS)

    def _unraisable(self, what: sys.UnraisableHookArgs) -> None:
        """End the process if the interruption was raised in a destructor or callback, where it would be lost."""
        if issubclass(what.exc_type, KeyboardInterrupt):
            self._end()
        if self._before is not None:
            self._before[1](what)
