"""Binding of processes to cores, without torch or JAX."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["bind", "bound"]

THREADS = Path("/proc/self/task")


def bound() -> set[int] | None:
    """Return the cores that the calling thread may run on; None if the system does not support it."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None


def bind(cores: set[int] | None) -> None:
    """Bind every thread of this process to these cores; no effect for None and on systems other than Linux."""
    if cores is not None and THREADS.exists():
        for thread in THREADS.iterdir():
            os.sched_setaffinity(int(thread.name), cores)
