"""Generated data, and the data that they are compared with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from flowvae.core.errors import FlowvaeError, nearest, shown
from flowvae.core.progress import bar
from flowvae.core.seeds import derive, seeded
from flowvae.data import Dataset, Source, condition_of
from flowvae.networks import in_eval_mode

__all__ = ["KINDS", "LARGEST", "conditions", "equal_sizes", "generate", "rows"]

BLOCK = 500  # data points that share a stream of random numbers
LARGEST = 2000  # largest number of data points of each kind that are compared
KINDS = ("draws", "means")


@torch.no_grad()
@in_eval_mode
def generate(
    model: Callable[..., Any],
    count: int,
    of: str = "draws",
    seed: int = 0,
    progress: bool = False,
    c: Tensor | None = None,
) -> Tensor:
    """Generate data, shape (count, *shape).

    "draws" are x ~ p(x | z), z ~ p(z). They follow the model's distribution of the data, so those of a perfect model
    score like held-out data. "means" are E[x | z], the images usually shown for a VAE. They lack the pixel noise of the
    data, and so differ from the data even if the model is perfect.

    Args:
        model: Pyro model that generates data by `model(size=…)`; "means" need a `VAE`.
        count: number of data points.
        of: "draws" or "means".
        seed: random seed of the draws; the first blocks do not depend on the count.
        progress: whether to show a progress bar.
        c: conditions, shape (count, C), for a conditional model.

    Raises:
        FlowvaeError: for an unknown `of`, or for means of a model without E[x | z].
    """
    if of not in KINDS:
        raise FlowvaeError(f"of = {shown(of)}: {nearest(str(of), KINDS)}")
    if of == "means" and not hasattr(model, "mean"):
        raise FlowvaeError(f"of = 'means': {type(model).__name__} has no E[x | z]; use of='draws'.")
    vae: Any = model
    parts = []
    starts = range(0, count, BLOCK)
    for number, start in enumerate(bar("generated data", "block", len(starts), starts, progress)):
        size = min(BLOCK, count - start)
        with seeded(derive(seed, "generate", number)):
            given = {"size": size} if c is None else {"c": c[start : start + size]}
            parts.append(vae.generate(**given)[1] if of == "means" else model(**given))
    return torch.cat(parts)


def equal_sizes(data: Dataset, split: str, count: int | None) -> int:
    """Common number of data points of the split, of train and of the model in a comparison.

    Args:
        data: the data set.
        split: "valid" or "test".
        count: requested number; None: all that both splits have, at most 2000.

    Raises:
        FlowvaeError: for an unknown split, or a number above the size of a split.
    """
    if split not in ("valid", "test"):
        raise FlowvaeError(f"split = {shown(split)}: generated data are compared with held-out data, valid or test.")
    most = min(len(data.train), len(getattr(data, split)))
    if count is None:
        return min(most, LARGEST)
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= most:
        raise FlowvaeError(
            f"count = {shown(count)}: must be a whole number, 1 to {most}, the smaller of train and {split}."
        )
    return count


def rows(data: Dataset, split: str, count: int, seed: int) -> Tensor:
    """Choose `count` different data points of a split in random order, shape (count, *shape)."""
    x: Tensor | Source = getattr(data, split)
    order = _order(data, split, count, seed)
    return x[order.to(x.device)] if isinstance(x, Tensor) else x[order]


def conditions(model: object, data: Dataset, split: str, count: int, seed: int) -> Tensor | None:
    """The conditions of the data points of `rows`, shape (count, C); None for an unconditional model."""
    condition = getattr(model, "condition", None)
    if condition is None:
        return None
    return condition_of(data, condition, split)[_order(data, split, count, seed)]


def _order(data: Dataset, split: str, count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(derive(seed, "rows", split))
    return torch.randperm(len(getattr(data, split)), generator=generator)[:count]
