"""One seed for a run, and a different stream of it for every purpose.

All arms of a comparison that share a seed share the split, the initial encoder and decoder and the order
of the batches, because each of these has its own stream: a flow that draws more initial weights does not
shift the random numbers of anything else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["derive", "random_state_kept", "seeded"]


def derive(seed: int, *purpose: str | int) -> int:
    """A seed for one purpose, from the seed of the run.

    >>> derive(0, "encoder") == derive(0, "encoder"), derive(0, "encoder") == derive(0, "decoder")
    (True, False)
    """
    digest = hashlib.sha256("/".join(map(str, (seed, *purpose))).encode()).digest()
    return int.from_bytes(digest[:6], "big")  # 48 bits: fits every generator's seed


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Torch's random numbers go on after the block as they were before it."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        yield


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's random numbers come from `seed` inside the block, and go on as before after it."""
    with random_state_kept():
        torch.manual_seed(seed)
        yield
