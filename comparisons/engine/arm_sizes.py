"""Sizes of arms, chosen by the size of the data."""

from __future__ import annotations

from flowvae.data import Dataset

__all__ = ["fits_many_widths", "flow_size"]

FEW = 5000  # training data
LARGE = 10_000_000  # numbers in the training data


def flow_size(data: Dataset) -> tuple[int, tuple[int, ...]]:
    """Transforms and hidden layers of a flow: small for few training data, larger for many, and for many images."""
    if len(data.train) < FEW:
        return 2, (32,)
    return (3, (64, 64)) if fits_many_widths(data) else (4, (256, 256))


def fits_many_widths(data: Dataset) -> bool:
    """Whether runs are short enough to repeat a question at several network widths; on large data they take hours."""
    return len(data.train) * data.features < LARGE
