"""Random seeds: one per run, and a separate stream for every purpose.

All arms of a comparison that share a seed share the split, the initial encoder and decoder and the order
of the batches, because each of these has its own stream: a flow that draws more initial weights does not
change any other random numbers.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["derive", "one_thread", "random_state_kept", "seeded"]

_LOCK = threading.RLock()


def derive(seed: int, *purpose: str | int) -> int:
    """Derive a seed for one purpose from the seed of the run.

    >>> derive(0, "encoder") == derive(0, "encoder"), derive(0, "encoder") == derive(0, "decoder")
    (True, False)
    """
    digest = hashlib.sha256("/".join(map(str, (seed, *purpose))).encode()).digest()
    return int.from_bytes(digest[:6], "big")  # 48 bits: fits every generator's seed


@contextmanager
def one_thread() -> Iterator[None]:
    """Let one thread at a time run the block: torch's random state and Pyro's handlers are global to the process."""
    with _LOCK:
        yield


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Restore torch's random state after the block."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with one_thread(), torch.random.fork_rng(devices=devices):
        yield


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's random numbers inside the block, and restore their state after it."""
    with random_state_kept():
        _seed_devices(seed)
        yield


def _seed_devices(seed: int) -> None:
    """Seed the available devices only.

    `torch.manual_seed` also seeds the others; for each of them it formats the call stack, which takes longer than a
    training step.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)
