"""Conditions of a conditional model: labels or covariates of a data set."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import torch
from torch import Tensor, nn

from flowvae.core.errors import FlowvaeError
from flowvae.core.parts import Condition, Units
from flowvae.data.batch import Batch
from flowvae.data.dataset import DataIdentity, Dataset
from flowvae.data.labels import warn_of_unseen

__all__ = ["batch_of", "condition_of", "condition_units", "identity_of"]


def condition_of(data: Dataset, condition: Condition, split: str) -> Tensor:
    """The condition of each data point of a split, shape (N, C): one-hot labels, or covariates.

    Raises:
        FlowvaeError: if the split has no labels or covariates.
    """
    if condition.on == "covariates":
        if data.conditions is None or split not in data.conditions:
            raise FlowvaeError(f"condition on covariates: {data.name} has none for {split}; give Dataset.conditions.")
        return data.conditions[split]
    if data.labels is None or split not in data.labels:
        raise FlowvaeError(
            f"condition on labels: {data.name} has no labels of {split}; give them (labels_{split}), or condition on "
            "covariates."
        )
    labels = data.labels[split]
    if split != "train" and "train" in data.labels:
        warn_of_unseen(data.name, {s: _names(data, s) for s in ("train", split)})
    return nn.functional.one_hot(labels.long(), data.class_count).to(torch.get_default_dtype())


def condition_units(data: Dataset, condition: Condition | None) -> Units | None:
    """Mean and standard deviation of each covariate of train, (C,); a constant has the unit 1. None: no covariates."""
    if condition is None or condition.on != "covariates":
        return None
    train = condition_of(data, condition, "train")
    exact = train.double()
    unit = exact.std(0, correction=0).where((train != train[0]).any(0), 1.0)
    return Units(exact.mean(0).to(train.dtype), unit.to(train.dtype))


def _names(data: Dataset, split: str) -> list[object]:
    """The classes of a split, by name if the classes are named."""
    assert data.labels is not None
    return [data.classes[int(one)] if data.classes else int(one) for one in data.labels[split].unique()]


def batch_of(data: Dataset, condition: Condition | None, split: str) -> Batch:
    """A split with its conditions; None: an unconditional model."""
    return Batch(getattr(data, split), None if condition is None else condition_of(data, condition, split))


def identity_of(data: Dataset, condition: Condition | None) -> DataIdentity:
    """The identity of the data; its checksum covers the labels if a model conditions on them."""
    identity = data.identity
    if condition is None or condition.on != "labels" or data.labels is None:
        return identity
    digest = hashlib.sha256(identity.sha256.encode())
    for split, labels in data.labels.items():
        digest.update(split.encode() + labels.long().numpy(force=True).astype("<i8").tobytes())
    return replace(identity, sha256=digest.hexdigest()[:16])
