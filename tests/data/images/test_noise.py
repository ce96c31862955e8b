"""Random numbers by place: SplitMix64 in whole numbers of Python, uniform and independent."""

from __future__ import annotations

import numpy as np
import torch
from scipy import stats

from flowvae.data.images.noise import random_int32


def splitmix64(seed: int, place: int) -> int:
    """Output number `place` (from 1) of the generator, by its published definition."""
    mask = 2**64 - 1
    z = (seed + place * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def test_published_outputs() -> None:
    """The first outputs for the seed 1234567, as Rosetta Code and Java's test vectors have them."""
    assert [splitmix64(1234567, i) for i in (1, 2)] == [6457827717110365317, 3203168211198807973]


def test_a_table_is_the_output_of_the_generator() -> None:
    columns, rows = 5, torch.tensor([3, 0, 10**9])
    found = random_int32(7, rows, columns)
    start = _finalized(7)
    for row, values in zip(rows.tolist(), found, strict=True):
        words = [splitmix64(start, row * 3 + i) for i in (1, 2, 3)]
        expected = [part for word in words for part in (word & 0xFFFFFFFF, word >> 32)]
        assert (values.numpy().view(np.uint32) == np.array(expected[:columns], np.uint32)).all()


def _finalized(z: int) -> int:
    """The output function without a step: a step back is added."""
    return splitmix64(z - 0x9E3779B97F4A7C15, 1)


def test_rows_are_the_same_in_any_company() -> None:
    table = random_int32(1, torch.arange(20), 7)
    assert torch.equal(random_int32(1, torch.tensor([19, 4]), 7), table[[19, 4]])
    assert not torch.equal(random_int32(2, torch.arange(20), 7), table)


def test_numbers_are_uniform_and_uncorrelated() -> None:
    table = random_int32(0, torch.arange(2000), 50).double() / 2**32 + 0.5
    assert stats.kstest(table.flatten(), "uniform").pvalue > 1e-3
    centred = table - 0.5
    for other in (centred.roll(1, 0), centred.roll(1, 1), random_int32(1, torch.arange(2000), 50).double() / 2**32):
        assert abs((centred * other).mean().item()) < 4 / 12 / 100_000**0.5
