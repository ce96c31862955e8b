"""Progress of long-running work: bars, or lines where standard error is neither a terminal nor a notebook."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from multiprocessing import parent_process
from time import perf_counter
from typing import Any

from tqdm.auto import tqdm

__all__ = ["Bar", "bar"]

DELAY = 2.0  # seconds of work before a bar appears
EVERY = 60.0  # seconds between two lines
LONG = 30.0  # seconds of expected total time above which it is announced
TRIAL = 2.0  # seconds of work after the first unit, on which the estimate is based
SLOW = 5.0  # seconds of the first unit that suffice for an estimate; a shorter unit may be mostly one-time setup


class Bar(tqdm):  # type: ignore[type-arg]
    """A progress bar with the remaining time, which appears after 2 s.

    If standard error is neither a terminal nor a notebook, such as a log file, it prints a line per minute instead,
    with the number of finished units and the estimated remaining time. The arguments are those of `bar`.
    """

    def __init__(
        self,
        what: str,
        unit: str,
        total: int | None,
        work: Iterable[Any] | None = None,
        progress: bool = True,
        *,
        initial: int = 0,
        leave: bool = False,
        announce: bool = False,
    ) -> None:
        wanted = progress and total != 1 and parent_process() is None
        super().__init__(
            work,
            desc=what,
            unit=unit,
            total=total,
            initial=initial,
            delay=DELAY,
            leave=leave,
            bar_format="{desc} [{elapsed}]" if total is None else None,
            disable=None if wanted else True,
        )
        self._what, self._one, self._all = what, unit, total
        self._lines = wanted and self.disable
        self._announces = wanted and announce
        self._began = self._said = perf_counter()
        self._first = 0.0
        self._done = 0.0
        self._before = initial

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the units; each is counted when the next one is requested."""
        try:
            for one in self.iterable:
                yield one
                self.update()
        finally:
            self.close()

    def update(self, n: float | None = 1) -> Any:
        """Count n units as done."""
        now = perf_counter()
        self._done += n or 0
        if self._announces:
            self._announce(n or 0, now)
        if self._lines and now - self._said >= EVERY:
            self._said = now
            print(self._line(now - self._began), file=sys.stderr, flush=True)
        return super().update(n)

    def finish(self) -> None:
        """Mark the work as finished before all units were needed."""
        if not self.disable:
            self.total = self.n

    def close(self) -> None:
        """Close the bar, and remove it unless `leave` is set."""
        if not self.disable and not self.leave:
            self.total = None  # otherwise a notebook keeps an unfinished bar, in red
        super().close()

    def _line(self, seconds: float) -> str:
        done = f"{self._before + self._done:.0f}"
        if self._all is None:
            text = f"{self._what}: {_duration(seconds)} so far"
        else:
            left = seconds / self._done * (self._all - self._before - self._done)
            text = f"{self._what}: {self._one} {done} of {self._all}, about {_duration(left)} left"
        more = getattr(self, "postfix", None)
        return f"{text} ({more})" if more else text

    def _announce(self, n: float, now: float) -> None:
        if self._done == n:
            self._first = now
            rate = (now - self._began) / n if now - self._began > SLOW else None
        else:
            rate = (now - self._first) / (self._done - 1) if now - self._first > TRIAL else None
        if rate is None or self._all is None:
            return
        self._announces = False
        if (seconds := rate * self._all) > LONG:
            self.write(f"{self._what}: takes about {_duration(seconds)} in all", file=sys.stderr)


def bar(
    what: str,
    unit: str,
    total: int | None,
    work: Iterable[Any] | None = None,
    progress: bool = True,
    *,
    initial: int = 0,
    leave: bool = False,
    announce: bool = False,
) -> Bar:
    """Show progress as a bar, or as a line per minute if standard error is neither a terminal nor a notebook.

    Nothing is shown for a single unit, whose duration cannot be estimated, or in a child process, such as a worker of
    a grid, since the bars of several processes would overwrite each other.

    Args:
        what: description of the work.
        unit: name of a unit.
        total: number of units; None: unknown, and only the elapsed time is shown.
        work: units to iterate over; None: they are counted by `update`.
        progress: whether to show progress.
        initial: number of units that were done before.
        leave: whether the bar stays visible after the work.
        announce: whether to print the expected total time, soon after the start, if it is more than 30 s.
    """
    return Bar(what, unit, total, work, progress, initial=initial, leave=leave, announce=announce)


def _duration(seconds: float) -> str:
    """Format a duration.

    >>> _duration(100), _duration(600), _duration(10_000)
    ('100 s', '10 min', '2.8 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
