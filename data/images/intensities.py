"""Intensities of images: whole numbers from 0 to 255, or fractions from 0 to 1 in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowvae.core.errors import FlowvaeError
from flowvae.data.access import blocks
from flowvae.data.batch import Source
from flowvae.data.preparation import as_event_shape
from flowvae.data.sources import MappedArray

__all__ = ["are_fractions", "as_intensities", "check_counts"]

INTENSITIES = "intensities are whole numbers 0..255, or in memory also fractions 0..1"


def are_fractions(x: NDArray[Any] | Tensor | Source) -> bool:
    """Whether an array in memory holds floating-point numbers from 0 to 1."""
    if not isinstance(x, np.ndarray) or isinstance(x, np.memmap):
        return False
    return x.dtype.kind == "f" and bool(x.min() >= 0 and x.max() <= 1)


def as_intensities(where: str, x: NDArray[Any] | Tensor | Source, fractions: bool) -> Tensor | Source:
    """Images as bytes, or as floating-point numbers if they are not whole numbers; a source is returned unchanged.

    Args:
        where: name of the images in messages.
        x: the images.
        fractions: whether the intensities of all splits are fractions 0..1 instead of 0..255.

    Raises:
        FlowvaeError: for numbers outside this range, and for fractions or bits where whole numbers are expected.
    """
    if isinstance(x, np.ndarray) and not isinstance(x, np.memmap):
        return torch.from_numpy(_bytes(where, as_event_shape(where, x), fractions))  # type: ignore[arg-type]
    source = MappedArray(as_event_shape(where, x)) if isinstance(x, np.memmap) else x  # type: ignore[arg-type]
    bounds = [(block.min().item(), block.max().item()) for block in blocks(source)]
    _check_range(where, min(low for low, _ in bounds), max(high for _, high in bounds))
    return source


def _bytes(where: str, x: NDArray[Any], fractions: bool) -> NDArray[Any]:
    low, high = x.min().item(), x.max().item()
    if fractions:
        x = x.astype(np.float64) * 255
        whole = np.round(x)
        return whole.astype(np.uint8) if np.abs(x - whole).max() < 1e-3 else x.astype(np.float32)
    _check_range(where, low, high)
    if x.dtype.kind == "f" and (x != np.round(x)).any():
        raise FlowvaeError(f"{where}: fractions from {low:g} to {high:g}; {INTENSITIES}.")
    return np.ascontiguousarray(x, np.uint8)


def check_counts(where: str, x: Tensor | Source) -> None:
    """Refuse fractions before dequantization: noise on [0, 1) bounds the code length of whole numbers only.

    Raises:
        FlowvaeError: for such intensities.
    """
    for block in blocks(x) if x.dtype.is_floating_point else ():
        fraction = block != block.round()
        if fraction.any():
            raise FlowvaeError(
                f"{where}: value {block[fraction][0].item():g} with values = 'dequantized'; must be whole numbers from "
                "0 to 255, or give levels, such as 128, which rounds down."
            )


def _check_range(where: str, low: float, high: float) -> None:
    if not (low >= 0 and high <= 255):
        raise FlowvaeError(f"{where}: values from {low:g} to {high:g}; {INTENSITIES}.")
    if high <= 1:
        raise FlowvaeError(
            f"{where}: values from {low:g} to {high:g}; {INTENSITIES}. Bits need no preprocessing: give the likelihood "
            "bernoulli and leave values out."
        )
