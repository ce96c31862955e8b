"""The shape of the tail of importance weights, fitted for all data points at once."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flowvae.evaluation.arviz.versions import EQUAL, TAIL, psis

__all__ = ["pareto_k"]

PRIOR_QUARTILE, PRIOR_DRAWS = 3, 10  # the priors of Zhang & Stephens and of Vehtari et al.
NEGLIGIBLE = 10 * torch.finfo(torch.float64).eps


def pareto_k(log_weight: Tensor) -> Tensor:
    """Estimate the shape k̂ of the generalized Pareto tail of each data point's weights, (S, ...) → (...).

    It is the k̂ of ArviZ's `psislw`, without the smoothed weights and in a tenth of its time. NaN if there are too few
    draws to fit a tail, −inf if the largest weights are equal. Float64, on the CPU.

    References:
        Vehtari et al. (2024), "Pareto smoothed importance sampling"; the fit: Zhang & Stephens (2009), "A new and
        efficient estimation method for the generalized Pareto distribution".
    """
    draws, shape = len(log_weight), log_weight.shape[1:]
    columns = log_weight.detach().double().cpu().reshape(draws, -1)
    if draws < TAIL:
        return torch.full(shape, torch.nan, dtype=torch.float64)
    tail = math.ceil(min(draws / 5, 3 * draws**0.5))
    largest = columns.topk(tail + 1, dim=0).values
    equal = largest[0] - largest[-1] < EQUAL
    relative = (largest - largest[0]).flip(0)
    cutoff = relative[0]
    found = _fit(relative[1:].exp() - cutoff.exp())
    found[equal] = -torch.inf
    # ArviZ leaves out weights that are equal to the cutoff or underflow; it computes these rare cases itself
    smallest = math.log(torch.finfo(torch.float64).tiny)
    special = ~equal & (~found.isfinite() | (relative[1] == cutoff) | (cutoff < smallest))
    if special.any():
        found[special] = psis(columns[:, special])[1]
    return found.reshape(shape)


def _fit(excess: Tensor) -> Tensor:
    """Posterior mean of the shape of a generalized Pareto distribution, from ascending values (M, B), (B,)."""
    number = len(excess)
    points = 30 + int(number**0.5)
    grid = 1 - (points / (torch.arange(1, points + 1, dtype=torch.float64) - 0.5)).sqrt()
    quartile = excess[int(number / 4 + 0.5) - 1]
    b = grid.unsqueeze(1) / (PRIOR_QUARTILE * quartile) + 1 / excess[-1]  # (points, B)
    k = torch.log1p(-b.unsqueeze(1) * excess).mean(1)
    weight = (number * ((-(b / k)).log() - k - 1)).softmax(0)
    weight = torch.where(weight >= NEGLIGIBLE, weight, 0.0)
    b = torch.where(weight > 0, b * weight, 0.0).sum(0) / weight.sum(0)
    k = torch.log1p(-b * excess).mean(0)
    return (number * k + PRIOR_DRAWS * 0.5) / (number + PRIOR_DRAWS)
