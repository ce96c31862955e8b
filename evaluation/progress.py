"""Progress bars that first say how long a measure takes, if that is long."""

from __future__ import annotations

import sys
import time
from typing import Any

from tqdm.auto import tqdm

__all__ = ["LONG", "Bar"]

LONG = 30.0  # seconds from which the time is said
TRIAL = 2.0  # seconds of work after the first unit, from which the whole time is estimated
SLOW = 5.0  # seconds of the first unit that are estimate enough; less may be spent on what happens only once


class Bar(tqdm):  # type: ignore[type-arg]
    """A tqdm bar. If the work takes more than 30 s, one line on stderr says so soon after it began.

    The line is also printed where no bar is shown, as in a log file.

    Args:
        total: units of work.
        desc: what is done.
        unit: of the work.
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
