"""Checks of data sets: finite values in the support, one event shape for all splits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from flowvae.core.errors import FlowvaeError
from flowvae.core.parts import LikelihoodSpec
from flowvae.data.access import blocks
from flowvae.data.batch import Source
from flowvae.data.places import place

__all__ = ["check_shapes_agree", "check_values"]


def check_values(where: str, x: Tensor | Source, likelihood: LikelihoodSpec) -> None:
    """Refuse NaN, infinities and values outside the support in data (N, *shape).

    Raises:
        FlowvaeError: for such a value, with the position of the first one.
    """
    start = 0
    for block in blocks(x):
        remedy = "Leave these rows out, or impute the missing values."
        _report(where, block, ~torch.isfinite(block), start, "finite numbers", remedy)
        bad = likelihood.violations(block)
        remedy = _what_they_are(block) if bad.any() else ""
        _report(where, block, bad, start, f"{likelihood.support} ({likelihood})", remedy)
        start += len(block)


def check_shapes_agree(name: str, splits: Mapping[str, Any]) -> None:
    """Refuse splits (N, *shape) with different event shapes.

    Raises:
        FlowvaeError: for different event shapes, with the shapes or numbers of columns.
    """
    shapes = {split: tuple(x.shape[1:]) for split, x in splits.items()}
    if len(set(shapes.values())) > 1:
        found: dict[str, Any] = dict(shapes)
        what = "shapes"
        if all(len(shape) == 1 for shape in shapes.values()):
            found, what = {split: shape[0] for split, shape in shapes.items()}, "numbers of columns"
        raise FlowvaeError(f"{name}: the splits have different {what}: {found}.")


def _report(where: str, x: Tensor, bad: Tensor, start: int, rule: str, remedy: str) -> None:
    if bad.any():
        index = tuple(int(i) for i in bad.nonzero()[0])
        count = int(bad.sum())
        raise FlowvaeError(
            f"{where}: value {x[index].item():g} at {place(index[0] + start, index[1:])} "
            f"({count} such value{'s' * (count > 1)}); must be {rule}. {remedy}"
        )


def _what_they_are(x: Tensor) -> str:
    """Suggest a likelihood for values outside the support."""
    low, high = x.min().item(), x.max().item()
    if high > 1 and ((x == 0) | (x == high)).all():
        return f"All are 0 or {high:g}: divide by {high:g} for bernoulli."
    if low >= 0 and (x == x.round()).all():
        return f"Counts are binomial:TOTAL, with a TOTAL of {high:g} or more here."
    if low >= 0 and high <= 1:
        return "Binarize values from 0 to 1 by a threshold, such as x > 0.5, or use gaussian."
    return "Real numbers are gaussian."
