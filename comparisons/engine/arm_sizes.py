"""Sizes of the arms' networks, chosen by the size of the data."""

from __future__ import annotations

from flowvae.data import Dataset

__all__ = ["fits_many_widths", "flow_size"]

FEW = 5000  # training data points
LARGE = 10_000_000  # values in the training data


def flow_size(data: Dataset) -> tuple[int, tuple[int, ...]]:
    """Return transforms and hidden widths of a flow, which grow with the number and size of the training data."""
    if len(data.train) < FEW:
        return 2, (32,)
    return (3, (64, 64)) if fits_many_widths(data) else (4, (256, 256))


def fits_many_widths(data: Dataset) -> bool:
    """Whether runs on these data are short enough to repeat a question at several network widths."""
    return len(data.train) * data.features < LARGE
