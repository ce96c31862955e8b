"""Progress of work whose length depends on a user's data or machine: bars, and lines where no bar can be seen."""

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
LONG = 30.0  # seconds above which the duration is announced
TRIAL = 2.0  # seconds of work after the first unit, on which the estimate is based
SLOW = 5.0  # seconds of the first unit that suffice for an estimate; a shorter one may be mostly one-time setup


class Bar(tqdm):  # type: ignore[type-arg]
    """A bar with the time left, on a terminal or in a notebook, that appears after 2 s.

    Where standard error is neither, such as in a log file, it is a line a minute instead: how many units are done, and
    about how long the others will take. The arguments are those of `bar`.
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
        """The units of the work, each counted when the next one is asked for."""
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
        """End the work although fewer units were needed than there are."""
        if not self.disable:
            self.total = self.n

    def close(self) -> None:
        """Remove the bar, or leave it as it is."""
        if not self.disable and not self.leave:
            self.total = None  # a notebook would keep a bar that has not counted all units, in red
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
    """Show the progress of work as a bar, or as a line a minute where standard error is neither terminal nor notebook.

    A single unit shows nothing, since nothing is known of its end. Nor does a process that another one has started,
    such as a worker of a grid: their bars would overwrite each other.

    Args:
        what: description of the work.
        unit: name of a unit.
        total: number of units; None: unknown, and the time that has passed is shown.
        work: units to iterate over; None: they are counted by `update`.
        progress: whether to show it.
        initial: units that were done before.
        leave: whether the bar stays when the work has ended; else it vanishes.
        announce: whether to write one line, soon after the start, if the work takes more than 30 s in all.
    """
    return Bar(what, unit, total, work, progress, initial=initial, leave=leave, announce=announce)


def _duration(seconds: float) -> str:
    """A duration in words.

    >>> _duration(100), _duration(600), _duration(10_000)
    ('100 s', '10 min', '2.8 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
