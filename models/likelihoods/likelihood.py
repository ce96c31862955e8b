"""Base class of likelihoods: lazy distributions over data, parametrized by decoder outputs."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from zuko.lazy import LazyDistribution

from flowvae.core.errors import FlowvaeError
from flowvae.core.parts import Units, check_default_type
from flowvae.data.access import blocks

__all__ = ["LEAST_LOG_SCALE", "SPEED", "Likelihood", "bounded", "count_units", "refuse_zeros", "spread", "stacked"]

LEAST_LOG_SCALE = -7.0  # in units of the spread: a narrower density would fit rounding, not data
SPEED = 10.0  # factor of a learned logarithm that has far to go: Adam moves a parameter by about its learning rate


class Likelihood(LazyDistribution):
    """Base class of likelihoods p(x | h), from decoder outputs (..., *parameter_shape) to a Pyro distribution of x.

    A subclass defines `forward`, and `mean` if its distribution has none. Element-wise distributions get the event
    shape by `.to_event(len(self.shape))`.

    Args:
        shape: event shape of x.
        units: center and unit of the data; networks see (x − center) / unit.
    """

    center: Tensor
    unit: Tensor

    def __init__(self, shape: Size, units: Units) -> None:
        super().__init__()
        self.shape = Size(shape)
        self.register_buffer("center", units.center)
        self.register_buffer("unit", units.unit)

    @abstractmethod
    def forward(self, parameters: Tensor) -> TorchDistribution:
        """Return the distribution over x, batch shape (...), from decoder outputs (..., *parameter_shape)."""

    def mean(self, parameters: Tensor) -> Tensor:
        """Compute E[x | h], shape (..., *shape), in the units of the data."""
        mean: Tensor = self(parameters).mean
        return mean

    def split(self, parameters: Tensor, count: int) -> tuple[Tensor, ...]:
        """Split outputs of shape (..., count · C, H, W) into parameters (..., C, H, W), for any event shape."""
        return parameters.chunk(count, dim=-len(self.shape))


def stacked(shape: Size, count: int) -> Size:
    """Return the event shape of `count` parameters per value, (count · C, H, W) for data (C, H, W)."""
    return Size((count * shape[0], *shape[1:]))


def spread(components: int) -> Tensor:
    """Return initial locations of mixture components, from −1 to 1, since equal ones would separate slowly."""
    return torch.linspace(-1, 1, components) if components > 1 else torch.zeros(1)


def bounded(value: Tensor, least: float, most: float) -> Tensor:
    """Clamp a value, but not its gradient, so that training can move it away from the bound."""
    return value.clamp(least, most).detach() + (value - value.detach())


def count_units(train: Any) -> Units:
    """Compute mean and standard deviation of all training counts (N, *shape), two scalars.

    Raises:
        FlowvaeError: for data whose dtype is not torch's default.
    """
    check_default_type(train.dtype)
    size, total, square = train.shape.numel(), 0.0, 0.0
    for x in blocks(train):
        total += x.double().sum().item()
        square += x.double().square().sum().item()
    mean = total / size
    spread = max(square / size - mean**2, 0.0) ** 0.5
    return Units(*(torch.tensor(value, dtype=train.dtype) for value in (mean, spread or 1.0)))


def refuse_zeros(center: Tensor) -> None:
    """Raise an error for counts that are all zero: their mean is the unit of the rates.

    Raises:
        FlowvaeError: if the mean is zero.
    """
    if center == 0:
        raise FlowvaeError("train: all counts are 0, so their rate has no unit; give data with positive counts.")
