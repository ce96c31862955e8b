"""Data on which the tests of comparisons ask."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from flowvae.comparisons import BASES
from flowvae.data import Dataset, StaticMNIST

__all__ = ["loaded"]


@cache
def loaded(data: str) -> Dataset:
    """The data of a base experiment; random bits in place of the file of static-mnist."""
    if data != "static-mnist":
        return BASES[data].data.load(0)
    bits = np.packbits(np.random.default_rng(0).integers(0, 2, (13_000, 784)), axis=1)
    with TemporaryDirectory() as folder:
        np.savez(Path(folder) / "bits.npz", train=bits, valid=bits[:50], test=bits[:50])
        return StaticMNIST(Path(folder) / "bits.npz").load(0)
