"""The base of the likelihoods: a lazy distribution over data that decoder outputs parametrize."""

from __future__ import annotations

from abc import abstractmethod

from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from zuko.lazy import LazyDistribution

from flowvae.core.parts import Units

__all__ = ["LEAST_LOG_SCALE", "Likelihood"]

LEAST_LOG_SCALE = -7.0  # in units of the spread: a narrower density would fit rounding, not data


class Likelihood(LazyDistribution):
    """p(x given h): decoder outputs (..., *parameter_shape) in, a Pyro distribution over x of the event shape out.

    A family defines `forward`, and `mean` if its distribution has none. Element-wise distributions get the event shape
    by `.to_event(len(self.shape))`.

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
        """Compute E[x given h], shape (..., *shape), in the units of the data."""
        mean: Tensor = self(parameters).mean
        return mean
