"""Counter-based random numbers: functions of a seed and a position, independent of earlier draws."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["random_int32"]

GAMMA = 0x9E3779B97F4A7C15 - 2**64  # as int64, whose products wrap around like those of uint64
FIRST = 0xBF58476D1CE4E5B9 - 2**64
SECOND = 0x94D049BB133111EB - 2**64


def random_int32(seed: int, rows: Tensor, columns: int) -> Tensor:
    """Uniform random numbers of type int32, shape (B, columns), in the rows `rows` (B,) of an endless table.

    A row does not depend on the other rows that are read, their order or the device. The table is the output of
    SplitMix64, which jumps to any position of its sequence at the cost of one step.

    Args:
        seed: random seed of the table.
        rows: row numbers from 0, int64.
        columns: number of columns of the table.

    References:
        Steele, Lea & Flood (2014), "Fast splittable pseudorandom number generators".
    """
    half = (columns + 1) // 2  # one step gives 64 bits
    start = int(_mixed(torch.tensor(seed)))  # mixed, so that the sequences of nearby seeds start far apart
    places = rows[:, None] * half + torch.arange(1, half + 1, device=rows.device)
    return _mixed(places.mul_(GAMMA).add_(start)).view(torch.int32)[:, :columns]


def _mixed(z: Tensor) -> Tensor:
    """The output function of SplitMix64."""
    for shift, factor in ((30, FIRST), (27, SECOND)):
        z = (z ^ _shifted(z, shift)).mul_(factor)
    return z ^ _shifted(z, 31)


def _shifted(z: Tensor, bits: int) -> Tensor:
    """Shift to the right, filled with zeros; torch's own fills with the sign."""
    return (z >> bits).bitwise_and_((1 << (64 - bits)) - 1)
