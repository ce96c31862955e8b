"""Student's t likelihood of real numbers with outliers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pyro.distributions as dist
import torch
from torch import Size, Tensor, nn

from flowvae.core.parts import Units
from flowvae.models.likelihoods.likelihood import LEAST_LOG_SCALE, SPEED, Likelihood, bounded
from flowvae.models.likelihoods.real_units import RealUnits

__all__ = ["StudentTLikelihood"]

LEAST_EXCESS, LARGEST_EXCESS = 0.02, 98.0  # bounds of ν − 2; at ν = 100 the distribution is almost Gaussian
START = 8.0


class _StudentT(Likelihood):
    """Student's t with the decoder's output as location; scale and degrees of freedom are learned for each value.

    Attributes:
        raw_scale: a tenth of the logarithm of the scale, in units of the spread, of the event shape.
        raw_excess: a tenth of log((ν − 2) / 8), of the event shape.
    """

    def __init__(self, shape: Size, units: Units) -> None:
        super().__init__(shape, units)
        self.raw_scale = nn.Parameter(torch.zeros(shape))
        self.raw_excess = nn.Parameter(torch.zeros(shape))

    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        scale = self.unit * bounded(SPEED * self.raw_scale, LEAST_LOG_SCALE, -LEAST_LOG_SCALE).exp()
        log_excess = math.log(START) + SPEED * self.raw_excess
        excess = bounded(log_excess, math.log(LEAST_EXCESS), math.log(LARGEST_EXCESS)).exp()
        return dist.StudentT(2 + excess, self.mean(parameters), scale).to_event(len(self.shape))

    def mean(self, parameters: Tensor) -> Tensor:
        return self.center + self.unit * parameters


@dataclass(frozen=True)
class StudentTLikelihood(RealUnits, name="student-t"):
    """Real numbers with outliers: Student's t, located at the decoder's output in units of the data's spread.

    Scale and degrees of freedom ν are learned, one of each for every value of a data point. ν is from 2.02 to 100, so
    that mean and variance exist.

    References:
        Takahashi, Iwata, Yamanaka, Yamada & Yagi (2018), "Student-t variational autoencoder for robust density
        estimation".
    """

    def build(self, shape: Size, units: Units) -> Likelihood:
        return _StudentT(shape, units)
