"""The Gaussian likelihood of real numbers, with a fixed, a learned, a decoded or an optimal scale."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pyro.distributions as dist
import torch
from torch import Size, Tensor, nn

from flowvae.core.errors import FlowvaeError, check_number, shown
from flowvae.core.parts import Units
from flowvae.data.precision import LARGEST, SMALLEST
from flowvae.models.likelihoods.likelihood import LEAST_LOG_SCALE, Likelihood, bounded, stacked
from flowvae.models.likelihoods.real_units import RealUnits

__all__ = ["GaussianLikelihood"]

SCALES = ("shared", "each", "optimal")
LARGEST_LOG_SCALE = 7.0  # in units of the spread
WINDOW = 10  # batches over which the optimal scale is averaged, few because errors fall in training


class _Gaussian(Likelihood):
    """Normal with the decoder's output as mean, in units of the data's mean and spread."""

    log_scale: Tensor

    def __init__(self, shape: Size, units: Units, scale: float | None) -> None:
        super().__init__(shape, units)
        self.learned = scale is None
        if scale is None:
            self.log_scale = nn.Parameter(torch.zeros(()))  # in units of `unit`
        else:
            self.register_buffer("log_scale", math.log(scale) - units.unit.log())

    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        log_scale = bounded(self.log_scale, LEAST_LOG_SCALE, math.inf) if self.learned else self.log_scale
        return dist.Normal(self.mean(parameters), self.unit * log_scale.exp()).to_event(len(self.shape))

    def mean(self, parameters: Tensor) -> Tensor:
        return self.center + self.unit * parameters


class _Each(Likelihood):
    """Normal whose mean and log-scale are both outputs of the decoder."""

    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        loc, log_scale = self.split(parameters, 2)
        scale = self.unit * bounded(log_scale, LEAST_LOG_SCALE, LARGEST_LOG_SCALE).exp()
        return dist.Normal(self.center + self.unit * loc, scale).to_event(len(self.shape))


class _Optimal(Likelihood):
    """Normal with one scale, the root of the mean squared error of training batches.

    Attributes:
        square: moving average of the mean squared error, in units of the spread; fixed in evaluation mode.
        batches: number of training batches so far, as a floating-point number.
    """

    square: Tensor
    batches: Tensor

    def __init__(self, shape: Size, units: Units) -> None:
        super().__init__(shape, units)
        self.register_buffer("square", torch.ones(()))
        self.register_buffer("batches", torch.zeros(()))

    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        return _OptimalNormal.of(self, self.mean(parameters)).to_event(len(self.shape))

    def mean(self, parameters: Tensor) -> Tensor:
        return self.center + self.unit * parameters

    @property
    def scale(self) -> Tensor:
        """The standard deviation in the units of the data, of the shape of `unit`."""
        return self.unit * self.square.sqrt()

    @torch.no_grad()
    def measure(self, error: Tensor) -> Tensor:
        """Return the scale that is optimal for the errors of a batch, and add it to the average."""
        square = (error / self.unit).square().mean().clamp_min(math.exp(2 * LEAST_LOG_SCALE))
        self.batches.add_(1)
        self.square.lerp_(square, self.batches.reciprocal().clamp_min(1 / WINDOW))
        return self.unit * square.sqrt()


class _OptimalNormal(dist.Normal):
    """Normal whose log-density in training mode uses the optimal scale of the batch."""

    likelihood: _Optimal

    @classmethod
    def of(cls, likelihood: _Optimal, loc: Tensor) -> _OptimalNormal:
        new = cls(loc, likelihood.scale)
        new.likelihood = likelihood
        return new

    def expand(self, batch_shape: Size, _instance: dist.Distribution | None = None) -> _OptimalNormal:
        """Expand the batch shape."""
        new: _OptimalNormal = super().expand(batch_shape, self._get_checked_instance(_OptimalNormal, _instance))
        new.likelihood = self.likelihood
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Compute the log-density in nats."""
        if not self.likelihood.training:
            return super().log_prob(value)
        scale = self.likelihood.measure(value - self.loc)
        return dist.Normal(self.loc, scale, validate_args=False).log_prob(value)


@dataclass(frozen=True)
class GaussianLikelihood(RealUnits, name="gaussian"):
    """Real-valued data with Gaussian noise; the decoder gives the mean, in units of the data's spread.

    Args:
        scale: standard deviation of the noise.

            - None: learned, as one fraction of each value's standard deviation, at least a thousandth. A constant
              column is then an error.
            - a number: fixed, in the units of the data.
            - "shared": one learned number for all values, a fraction of the pooled standard deviation: for images,
              whose pixels have one unit and may be constant.
            - "each": the decoder gives one for each value, from a thousandth to a thousand times its spread; for data
              (C, H, W), the first C channels of its output are the means and the next C the log-scales.
            - "optimal": as "shared", but not learned: the root of the mean squared error, which maximizes the
              likelihood. In training it is that of the batch; in evaluation, an average over training batches, so
              that it does not depend on the evaluated data and p(x | z) is a density.

    Raises:
        FlowvaeError: for any other scale.

    References:
        Rybkin, Daniilidis & Levine (2021), "Simple and effective VAE training with calibrated decoders" ("shared",
        "optimal").
    """

    scale: float | str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.scale, str):
            if self.scale not in SCALES:
                raise FlowvaeError(
                    f"GaussianLikelihood.scale = {shown(self.scale)}: must be a positive number, {', '.join(SCALES)}, "
                    "or left out."
                )
            return
        check_number(self, "scale", optional=True)
        if self.scale is not None and not SMALLEST <= self.scale <= LARGEST:
            raise FlowvaeError(
                f"GaussianLikelihood.scale = {self.scale:g}: must be {SMALLEST:g} to {LARGEST:g}, so that float32 can "
                "represent its square. Rescale the data."
            )

    @property
    def fixed(self) -> float | None:
        return None if isinstance(self.scale, str) else self.scale

    @property
    def shared(self) -> bool:
        return self.scale in ("shared", "optimal")

    @property
    def constants(self) -> bool:
        return self.scale == "each"

    def parameter_shape(self, shape: Size) -> Size:
        return stacked(shape, 2) if self.scale == "each" else shape

    def build(self, shape: Size, units: Units) -> Likelihood:
        if self.scale == "each":
            return _Each(shape, units)
        return _Optimal(shape, units) if self.scale == "optimal" else _Gaussian(shape, units, self.fixed)
