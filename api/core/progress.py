"""Progress bars of work whose length depends on a user's data or machine."""

from __future__ import annotations

from collections.abc import Iterable
from multiprocessing import parent_process
from typing import Any

from tqdm.auto import tqdm

__all__ = ["bar"]

DELAY = 2.0  # seconds of work before a bar appears


def bar(what: str, unit: str, total: int | None, work: Iterable[Any] | None = None, progress: bool = True) -> tqdm[Any]:
    """A bar with the time left, on a terminal or in a notebook, that appears after 2 s and vanishes at the end.

    A single unit has none, since nothing is known of its end. Nor has a process that another one has started, such as
    a worker of a grid: their bars would overwrite each other.

    Args:
        what: description of the work.
        unit: name of a unit.
        total: number of units; None: unknown, and the time that has passed is shown.
        work: units to iterate over; None: they are counted by `update`.
        progress: whether to show the bar.
    """
    shown = progress and total != 1 and parent_process() is None
    return tqdm(
        work,
        desc=what,
        unit=unit,
        total=total,
        delay=DELAY,
        leave=False,
        bar_format="{desc} [{elapsed}]" if total is None else None,
        disable=None if shown else True,
    )
