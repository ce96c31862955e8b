"""Nearest training data, searched in blocks."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from flowvae.core.errors import check_int_value
from flowvae.core.progress import bar
from flowvae.data import Batch, Source

__all__ = ["nearest_neighbours"]

VALUES = 2**22  # largest number of values of the searched data, and of distances, in memory at a time


@torch.no_grad()
def nearest_neighbours(
    x: Tensor,
    train: Tensor | Source,
    k: int = 1,
    features: Callable[[Tensor], Tensor] | None = None,
    searched: int | None = None,
    progress: bool = True,
) -> tuple[Tensor, Tensor]:
    """Distances of each row of x to its k nearest rows of train, the nearest first, and their indices, both (M, k).

    Only a block of the searched data is in memory at a time. Differences are squared column by column, so that a copy
    is at distance 0 without rounding error.

    Args:
        x: data, shape (M, *shape), on the device for the computation.
        train: the searched data, shape (N, *shape).
        k: number of neighbours; N if that is less.
        features: feature map (M, *shape) → (M, ...) in which distances are measured; None: x itself.
        searched: number of rows of train to search, the first ones; None: all.
        progress: whether to show a progress bar.

    Raises:
        FlowvaeError: for a k below 1.
    """
    check_int_value("k", k)

    def rows(part: Tensor) -> Tensor:
        return (part if features is None else features(part)).flatten(1)

    sought, first = rows(x), 0
    distances, indices = sought.new_empty(len(x), 0), torch.empty(len(x), 0, dtype=torch.long, device=x.device)
    size = max(1, VALUES // max(math.prod(x.shape[1:]), len(x)))
    order = torch.arange(len(train) if searched is None else min(searched, len(train))).split(size)
    for block in bar("nearest training data", "block", len(order), Batch(train).batches(order), progress):
        part = block.args[0].to(x)
        found = torch.cdist(sought, rows(part), compute_mode="donot_use_mm_for_euclid_dist")
        places = torch.arange(first, first + len(part), device=x.device).expand(len(x), -1)
        distances, indices = torch.cat((distances, found), 1), torch.cat((indices, places), 1)
        distances, kept = distances.topk(min(k, distances.shape[1]), largest=False)
        indices = indices.gather(1, kept)
        first += len(part)
    return distances, indices
