"""The discretized logistic likelihood of ordered counts, such as grey levels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from torch import Size, Tensor, nn

from flowvae.core.errors import check_choice
from flowvae.core.parts import Units
from flowvae.models.likelihoods.bounded_counts import BoundedCounts
from flowvae.models.likelihoods.discretized import DiscretizedLogistic
from flowvae.models.likelihoods.likelihood import Likelihood, bounded, count_units, stacked

__all__ = ["DiscretizedLogisticLikelihood", "LogisticScale"]

LEAST_LOG_BINS = -3.0  # log-scale in counts: a narrower logistic gives its bin less than 0.0001 nats more
LARGEST_LOG_RANGES = 2.0  # log-scale in ranges from 0 to total


class LogisticScale(Likelihood):
    """Location and log-scale of logistics, in units of [−1, 1], from outputs in units of the data's spread.

    Args:
        shape: event shape of x.
        units: mean and spread of the counts.
        total: the largest count.
    """

    def __init__(self, shape: Size, units: Units, total: int) -> None:
        super().__init__(shape, units)
        self.total = total

    def loc(self, h: Tensor) -> Tensor:
        """Location in units of [−1, 1]; the mean of the data for h = 0."""
        return 2 * (self.center + self.unit * h) / self.total - 1

    def log_scale(self, h: Tensor) -> Tensor:
        """Bounded log-scale in units of [−1, 1]; that of the data's standard deviation, π s / √3, for h = 0."""
        log_scale = h + (self.unit * (math.sqrt(3) / math.pi)).log()
        return bounded(log_scale, LEAST_LOG_BINS, LARGEST_LOG_RANGES + math.log(self.total)) - math.log(self.total / 2)


class _DiscretizedLogistic(LogisticScale):
    def __init__(self, shape: Size, units: Units, total: int, scale: str) -> None:
        super().__init__(shape, units, total)
        if scale == "shared":
            self.shared_scale = nn.Parameter(torch.zeros(()))
        self.parameters_each = 1 if scale == "shared" else 2

    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        loc, *scale = self.split(parameters, self.parameters_each)
        log_scale = self.log_scale(scale[0] if scale else self.shared_scale)
        return DiscretizedLogistic(self.loc(loc), log_scale, self.total).to_event(len(self.shape))


@dataclass(frozen=True)
class DiscretizedLogisticLikelihood(BoundedCounts, name="discretized-logistic"):
    """Counts from 0 to `total`, such as grey levels, with a logistic density that is integrated over each bin.

    The decoder gives location and log-scale, in units of the data's mean and spread. For data (C, H, W), the first C
    channels of its output are the locations and the next C the log-scales.

    Args:
        total: the largest count, 65,536 at most; 255 for bytes.
        scale: "each": the decoder gives a scale for each value; "shared": one scale is learned for all.

    Raises:
        FlowvaeError: for settings out of range.

    References:
        Kingma, Salimans, Jozefowicz, Chen, Sutskever & Welling (2016), "Improving variational inference with inverse
        autoregressive flow" (appendix; "shared" for each channel).
    """

    total: int
    scale: str = "each"

    def __post_init__(self) -> None:
        self.check_total()
        check_choice(self, "scale", ("each", "shared"))

    def units(self, train: Any) -> Units:
        return count_units(train)

    def parameter_shape(self, shape: Size) -> Size:
        return stacked(shape, 2) if self.scale == "each" else shape

    def build(self, shape: Size, units: Units) -> Likelihood:
        return _DiscretizedLogistic(shape, units, self.total, self.scale)
