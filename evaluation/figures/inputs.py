"""Inputs of figures: the first test data with their conditions, pairs of data, and codes from the prior."""

from __future__ import annotations

import torch
from torch import Tensor

from flowvae.core.errors import FlowvaeError
from flowvae.core.seeds import derive
from flowvae.data import Batch, Dataset, batch_of, first
from flowvae.models import VAE

__all__ = ["first_of", "pairs_of", "prior_draws"]


def first_of(data: Dataset, count: int, model: VAE, split: str = "test") -> Batch:
    """The first data points of a split with their conditions, on the device of the model."""
    batch = batch_of(data, getattr(model, "condition", None), split)
    c = None if batch.c is None else batch.c[:count]
    return Batch(first(batch.x, count), c).to(next(model.parameters()).device)


def pairs_of(data: Dataset, count: int, model: VAE, seed: int, split: str = "test") -> tuple[Batch, Batch]:
    """Random pairs of data points of a split, all different, with their conditions, on the device of the model.

    The labels of a pair are different, or equal for a model conditioned on labels, if there are such pairs.

    Raises:
        FlowvaeError: for a split of one data point.
    """
    batch = batch_of(data, getattr(model, "condition", None), split)
    order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(derive(seed, "pairs")))
    labels = (data.labels or {}).get(split, torch.arange(len(batch))).cpu()
    equal = model.condition is not None and model.condition.on == "labels"
    if equal:
        order = order[labels[order].argsort(stable=True)]  # neighbours are then mostly of one class
    a, b = order[0 : len(order) // 2 * 2 : 2], order[1::2]
    fit = (labels[a] == labels[b]) if equal else (labels[a] != labels[b])
    if fit.any():
        a, b = a[fit], b[fit]
    if equal:  # mixed, so that not only the first classes appear
        mixed = torch.randperm(len(a), generator=torch.Generator().manual_seed(derive(seed, "classes")))
        a, b = a[mixed], b[mixed]
    if not len(a):
        raise FlowvaeError(f"{data.name}: {len(batch)} data point of {split}; a path needs two.")
    device = next(model.parameters()).device
    first_ones, others = (batch[index[:count]].to(device) for index in (a, b))
    return first_ones, others


def prior_draws(model: VAE, count: int, c: Tensor | None) -> Tensor:
    """Draw codes from the prior (count, D), for the conditions in order."""
    if c is None:
        return model.prior().sample((count,))
    prior = model.prior_given(c[torch.arange(count) % len(c)])
    return prior.sample() if prior.batch_shape else prior.sample(torch.Size((count,)))
