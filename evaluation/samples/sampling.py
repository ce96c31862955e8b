"""What a model generates, and which data it is held against."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from flowvae.core.errors import FlowvaeError, nearest, shown
from flowvae.core.seeds import derive, seeded
from flowvae.data import Dataset
from flowvae.models import VAE
from flowvae.networks import in_eval_mode

__all__ = ["KINDS", "LARGEST", "equal_sizes", "generate", "rows"]

BLOCK = 500  # data that share a stream of random numbers
LARGEST = 2000  # how many of each are compared, if there are more
KINDS = ("draws", "means")


@torch.no_grad()
@in_eval_mode
def generate(model: Callable[..., Any], count: int, of: str = "draws", seed: int = 0, progress: bool = False) -> Tensor:
    """Generated data, shape (count, D).

    "draws" are x ~ p(x | z), z ~ p(z): they alone have the law that the model claims for the data, so only for them
    does a perfect model score as held-out data do. "means" are E[x | z], the pictures that a VAE is usually shown by.
    They lack the pixel noise that the data have, and so differ from the data even if the model is perfect.

    Args:
        model: Pyro model that generates data by `model(size=…)`; "means" need a `VAE`.
        count: how many.
        of: "draws" or "means".
        seed: decides them; the first of them do not depend on how many more there are, block by block.
        progress: whether to show a progress bar.

    Raises:
        FlowvaeError: for another word, or for means of a model that has none.
    """
    if of not in KINDS:
        raise FlowvaeError(f"of = {shown(of)}: {nearest(str(of), KINDS)}")
    if of == "means" and not isinstance(model, VAE):
        raise FlowvaeError(f"of = 'means': {type(model).__name__} has no E[x | z]; use of='draws'.")
    parts = []
    starts = range(0, count, BLOCK)
    for number, start in enumerate(tqdm(starts, desc="generated data", unit="block", disable=not progress or None)):
        size = min(BLOCK, count - start)
        with seeded(derive(seed, "generate", number)):
            parts.append(model.generate(size)[1] if of == "means" and isinstance(model, VAE) else model(size=size))
    return torch.cat(parts)


def equal_sizes(data: Dataset, split: str, count: int | None) -> int:
    """How many data of the split, of train and of the model are compared: as many of each.

    Args:
        data: with the splits.
        split: "valid" or "test".
        count: the number that is asked for; None: as many as there are, 2000 at most.

    Raises:
        FlowvaeError: for another split, or a number that the splits do not have.
    """
    if split not in ("valid", "test"):
        raise FlowvaeError(f"split = {shown(split)}: generated data are held against held-out data, valid or test.")
    most = min(len(data.train), len(getattr(data, split)))
    if count is None:
        return min(most, LARGEST)
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= most:
        raise FlowvaeError(
            f"count = {shown(count)}: must be a whole number, 1 to {most}, the smaller of train and {split}."
        )
    return count


def rows(data: Dataset, split: str, count: int, seed: int) -> Tensor:
    """`count` different data of a split in random order, shape (count, D)."""
    x: Tensor = getattr(data, split)
    generator = torch.Generator().manual_seed(derive(seed, "rows", split))
    return x[torch.randperm(len(x), generator=generator)[:count].to(x.device)]
