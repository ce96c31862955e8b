"""Differences between ArviZ 0.x and 1.x: Pareto smoothing, and groups of arrays as one object."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["EQUAL", "OLD", "TAIL", "arviz", "from_groups", "psis", "without_masked"]

OLD = int(version("arviz").split(".")[0]) == 0
TAIL = 25  # smallest number of draws; ArviZ fits the largest fifth of them and needs five
EQUAL = 1e-3  # nats; largest log-weights that differ by less have no tail


@cache
def arviz() -> Any:
    """Import ArviZ on first use, since the import takes a second."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # 0.23 announces 1.0 at every import
        import arviz as az
    return az


def psis(log_weight: Tensor) -> tuple[Tensor, Tensor]:
    """Pareto-smooth and normalize log-weights (S, ...); also estimate the shape k̂ (...) of each column's tail.

    With fewer than 25 draws, too few to fit a tail, the weights are only normalized and k̂ is NaN. If the largest
    weights are equal, as for an exact guide, nothing is smoothed and k̂ is −inf (0.23 returns +inf, 1.x raises).

    Returns:
        Log-weights (S, ...), whose exponentials sum to one over the draws, and k̂, both float64 on the CPU.

    References:
        Vehtari et al. (2024), "Pareto smoothed importance sampling".
    """
    draws, shape = len(log_weight), log_weight.shape[1:]
    columns = log_weight.detach().double().cpu().reshape(draws, -1)
    if draws < TAIL:
        return columns.log_softmax(0).reshape(log_weight.shape), torch.full(shape, torch.nan, dtype=torch.float64)
    smoothed, shapes = torch.empty_like(columns), torch.empty(columns.shape[1], dtype=torch.float64)
    tail = math.ceil(min(draws / 5, 3 * draws**0.5))
    for number, column in enumerate(columns.T):
        largest = column.topk(tail + 1).values
        if largest[0] - largest[-1] < EQUAL:
            smoothed[:, number], shapes[number] = column, -torch.inf
            continue
        with np.errstate(over="ignore"):  # if one weight dominates, the fit overflows and k̂ is huge, as it should be
            values, shape_k = _psislw(column.numpy())
        smoothed[:, number], shapes[number] = torch.as_tensor(values), float(shape_k)
    # 0.23 normalizes, 1.x does not guarantee it
    return smoothed.log_softmax(0).reshape(log_weight.shape), shapes.reshape(shape)


def from_groups(
    groups: Mapping[str, Mapping[str, Any]],
    dims: Mapping[str, Mapping[str, Sequence[str]]],
    coords: Mapping[str, Any] | None = None,
    attrs: Mapping[str, Any] | None = None,
) -> Any:
    """Combine arrays into an InferenceData (ArviZ 0.x) or a DataTree (1.x).

    Args:
        groups: group → variable → array, of shape (chain, draw, ...), or (...) in "observed_data".
        dims: group → variable → names of the dimensions after chain and draw.
        coords: dimension → coordinates.
        attrs: attributes of the posterior, such as k̂.
    """
    from xarray import DataTree

    parts = {}
    for name, values in groups.items():  # one by one: a variable may have other dimensions in another group
        arrays = {key: np.asarray(value) for key, value in values.items()}
        named = {key: list(value) for key, value in dims.get(name, {}).items()}
        if OLD:
            draws: list[str] | None = [] if name == "observed_data" else None
            parts[name] = arviz().dict_to_dataset(arrays, dims=named, coords=dict(coords or {}), default_dims=draws)
        else:
            parts[name] = arviz().from_dict({name: arrays}, dims=named, coords=dict(coords or {}))[name].to_dataset()
    if attrs:
        parts["posterior"].attrs.update(attrs)
    return arviz().InferenceData(**parts) if OLD else DataTree.from_dict(parts)


def without_masked(
    log_likelihood: Mapping[str, Tensor], counted: Mapping[str, Tensor], dims: Mapping[str, Sequence[str]]
) -> tuple[dict[str, Tensor], dict[str, tuple[str, ...]], dict[str, Any]]:
    """Remove masked data from log-likelihoods; ArviZ would count them as data of density one.

    A site with masked data keeps one dimension, "SITE_counted", whose coordinates are indices into the flattened data.
    A site whose data are all masked is removed.

    Args:
        log_likelihood: site → values (S, *batch).
        counted: site → whether a data point is not masked, (*batch).
        dims: site → names of the dimensions of its data, those of the batch first.

    Returns:
        The values, the names of their dimensions after that of the draws, and coordinates.
    """
    values, named, coords = {}, {}, {}
    for name, value in log_likelihood.items():
        keep = counted[name]
        if keep.all():
            values[name], named[name] = value, tuple(dims.get(name, ()))[: value.dim() - 1]
        elif keep.any():
            values[name], named[name] = value[:, keep], (f"{name}_counted",)
            coords[f"{name}_counted"] = keep.flatten().nonzero().squeeze(1).numpy(force=True)
    return values, named, coords


def _psislw(log_weight: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], float]:
    if OLD:
        return arviz().psislw(log_weight.copy())
    from arviz_stats.base import array_stats

    return array_stats.psislw(-log_weight, r_eff=1.0)  # 1.x takes log-likelihoods, which it negates
