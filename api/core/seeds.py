"""One seed for a run, and a different stream of it for every purpose.

All arms of a comparison that share a seed share the split, the initial encoder and decoder and the order
of the batches, because each of these has its own stream: a flow that draws more initial weights does not
shift the random numbers of anything else.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["derive", "one_thread", "random_state_kept", "seeded"]

_TURN = threading.RLock()


def derive(seed: int, *purpose: str | int) -> int:
    """A seed for one purpose, from the seed of the run.

    >>> derive(0, "encoder") == derive(0, "encoder"), derive(0, "encoder") == derive(0, "decoder")
    (True, False)
    """
    digest = hashlib.sha256("/".join(map(str, (seed, *purpose))).encode()).digest()
    return int.from_bytes(digest[:6], "big")  # 48 bits: fits every generator's seed


@contextmanager
def one_thread() -> Iterator[None]:
    """Threads take turns in such blocks: torch's random numbers and Pyro's handlers belong to the whole process."""
    with _TURN:
        yield


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Torch's random numbers go on after the block as they were before it."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with one_thread(), torch.random.fork_rng(devices=devices):
        yield


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's random numbers come from `seed` inside the block, and go on as before after it."""
    with random_state_kept():
        _seed_devices(seed)
        yield


def _seed_devices(seed: int) -> None:
    """What `torch.manual_seed` does for the devices that are here.

    For those that are not, it would format the stack of the call three times, which takes longer than a training step.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)
