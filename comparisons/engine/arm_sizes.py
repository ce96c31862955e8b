"""Sizes of arms, chosen by the size of the data."""

from __future__ import annotations

from flowvae.data import Dataset

__all__ = ["fits_many_widths", "flow_size"]

FEW = 5000  # training data
LARGE = 10_000_000  # numbers in the training data


def flow_size(data: Dataset) -> tuple[int, tuple[int, ...]]:
    """Transforms and hidden layers of a flow: below the defaults for few training data, above them for many."""
    return (2, (32,)) if len(data.train) < FEW else (3, (64, 64))


def fits_many_widths(data: Dataset) -> bool:
    """Whether runs are short enough to repeat a question at several network widths; on large data they take hours."""
    return len(data.train) * data.features < LARGE
