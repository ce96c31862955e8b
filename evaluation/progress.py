"""Progress bars that estimate the duration of long measures."""

from __future__ import annotations

import sys
import time
from typing import Any

from tqdm.auto import tqdm

__all__ = ["LONG", "Bar"]

LONG = 30.0  # seconds above which the estimate is printed
TRIAL = 2.0  # seconds of work after the first unit, on which the estimate is based
SLOW = 5.0  # seconds of the first unit that suffice for an estimate; a shorter one may be mostly one-time setup


class Bar(tqdm):  # type: ignore[type-arg]
    """A tqdm bar that prints one line on stderr, soon after the start, if the work takes more than 30 s.

    The line is also printed where no bar is visible, such as in a log file.

    Args:
        total: units of work.
        desc: description of the work.
        unit: name of a unit.
        progress: whether to show the bar and the line.
    """

    def __init__(self, total: int, desc: str, unit: str, progress: bool) -> None:
        super().__init__(total=total, desc=desc, unit=unit, disable=None if progress else True)
        self._units, self._name, self._silent = total, desc, not progress
        self._began, self._first, self._done = time.perf_counter(), 0.0, 0.0

    def update(self, n: float | None = 1) -> Any:
        """Count n units as done."""
        if not self._silent:
            self._estimate(n or 0)
        return super().update(n)

    def _estimate(self, n: float) -> None:
        now = time.perf_counter()
        self._done += n
        if self._done == n:
            self._first = now
            rate = (now - self._began) / n if now - self._began > SLOW else None
        else:
            rate = (now - self._first) / (self._done - 1) if now - self._first > TRIAL else None
        if rate is None:
            return
        self._silent = True
        seconds = rate * self._units
        if seconds > LONG:
            shown = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
            self.write(f"{self._name}: takes about {shown} in all", file=sys.stderr)
