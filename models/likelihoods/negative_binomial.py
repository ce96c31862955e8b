"""Negative binomial likelihoods of overdispersed counts, with and without zero inflation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Size, Tensor, nn
from torch.nn import functional as F

from flowvae.core.errors import check_choice
from flowvae.core.parts import LikelihoodSpec, Units
from flowvae.models.likelihoods.event_sum import Counts, precise, precise_sum
from flowvae.models.likelihoods.likelihood import SPEED, Likelihood, bounded, count_units, refuse_zeros, stacked
from flowvae.models.likelihoods.poisson import LARGEST_COUNT, LARGEST_LOG_RATE, LEAST_LOG_RATE

__all__ = ["NegativeBinomial", "NegativeBinomialLikelihood", "ZeroInflatedNegativeBinomialLikelihood"]

DISPERSIONS = ("column", "each")
LOG_DISPERSION = 10.0  # bound of |log θ|: the variance ranges from 22,000 μ² to almost that of a Poisson distribution
FEW_ZEROS = -2.0  # logit of π where the decoder's output is 0


class NegativeBinomial(Counts, TorchDistribution):
    """Negative binomial distribution of mean μ and variance μ + μ²/θ; a share π of the counts is replaced by zeros.

    P(x) = Γ(x + θ) / (x! Γ(θ)) · (θ / (θ + μ))^θ (μ / (θ + μ))^x for π = 0.

    Log-gammas of large numbers nearly cancel, so they are computed in float64.

    Args:
        log_mean: log μ, of any shape.
        log_dispersion: log θ, broadcast with it.
        zeros: logit of π; None: π = 0.

    References:
        Lopez, Regier, Cole, Jordan & Yosef (2018), "Deep generative modeling for single-cell transcriptomics".
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"log_mean": constraints.real, "log_dispersion": constraints.real}
    support = constraints.nonnegative_integer

    def __init__(
        self, log_mean: Tensor, log_dispersion: Tensor, zeros: Tensor | None = None, validate_args: bool | None = None
    ) -> None:
        self.log_mean, self.log_dispersion = torch.broadcast_tensors(log_mean, log_dispersion)
        self.zeros = zeros
        super().__init__(self.log_mean.shape, validate_args=validate_args)

    def expand(self, batch_shape: Size, _instance: object = None) -> NegativeBinomial:
        """Expand the batch shape."""
        parts = (self.log_mean, self.log_dispersion, self.zeros)
        expanded = (None if part is None else part.expand(batch_shape) for part in parts)
        new = NegativeBinomial(*expanded, validate_args=False)  # type: ignore[arg-type, misc]
        new._validate_args = self._validate_args
        return new

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the parameters."""
        return self.log_mean.dtype

    def log_kernel(self, value: Tensor, event: int) -> Tensor:
        """Compute Σ_j log P(x_j) + log x_j!, in float64 where the device has it."""
        x, log_mean, log_dispersion = map(precise, (value, self.log_mean, self.log_dispersion))
        dispersion, logit = log_dispersion.exp(), log_mean - log_dispersion
        gammas = torch.lgamma(x + dispersion) - torch.lgamma(dispersion)
        rest = gammas + x * logit - (x + dispersion) * F.softplus(logit)
        if self.zeros is not None:
            zeros = self.zeros.to(rest.dtype)
            zero = torch.logaddexp(zeros, -dispersion * F.softplus(logit))
            rest = torch.where(x == 0, zero, rest) - F.softplus(zeros)
        return precise_sum(rest, event)

    def log_base_measure(self, value: Tensor) -> Tensor:
        """Compute −log x!, in the shape of the value, in float64 where the device has it."""
        return -torch.lgamma(precise(value) + 1)

    @property
    def mean(self) -> Tensor:
        """E[x] = (1 − π) μ."""
        mean = self.log_mean.exp()
        return mean if self.zeros is None else mean * torch.sigmoid(-self.zeros)

    @torch.no_grad()
    def sample(self, sample_shape: Any = Size()) -> Tensor:  # noqa: B008
        """Draw from Poisson distributions of gamma-distributed rates, shape sample_shape + batch shape."""
        shape = Size((*sample_shape, *self.batch_shape))
        dispersion = self.log_dispersion.exp().expand(shape)
        rate = torch._standard_gamma(dispersion) * (self.log_mean - self.log_dispersion).exp()
        x = torch.poisson(rate)
        return x if self.zeros is None else x * torch.bernoulli(torch.sigmoid(-self.zeros).expand(shape))


class _NegativeBinomial(Likelihood):
    """Negative binomial whose log-mean is an output of the decoder, in units of the mean count.

    Attributes:
        raw_dispersion: a tenth of log θ, of the event shape, if θ is learned for each column.
    """

    def __init__(self, shape: Size, units: Units, dispersion: str, inflated: bool) -> None:
        super().__init__(shape, units)
        self.inflated = inflated
        self.parameters_each = 1 + inflated + (dispersion == "each")
        if dispersion == "column":
            self.raw_dispersion = nn.Parameter(torch.zeros(shape))

    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        log_mean, *rest = self.split(parameters, self.parameters_each)
        log_mean = self.center.log() + bounded(log_mean, LEAST_LOG_RATE, LARGEST_LOG_RATE)
        zeros = FEW_ZEROS + rest.pop(0) if self.inflated else None
        log_dispersion = rest[0] if rest else SPEED * self.raw_dispersion
        log_dispersion = bounded(log_dispersion, -LOG_DISPERSION, LOG_DISPERSION)
        return NegativeBinomial(log_mean, log_dispersion, zeros).to_event(len(self.shape))


@dataclass(frozen=True)
class NegativeBinomialLikelihood(LikelihoodSpec, name="negative-binomial"):
    """Counts 0, 1, 2, … of mean μ = m eʰ and variance μ + μ²/θ; m is the mean count of the training data.

    For data (C, H, W), the first C channels of the decoder's output are h. Networks see log(1 + x), standardized.

    Args:
        dispersion: "column": the inverse dispersion θ is learned, one for each value of a data point; "each": the
            decoder gives log θ as well, the last C channels.

    Raises:
        FlowvaeError: for any other dispersion.

    References:
        Lopez, Regier, Cole, Jordan & Yosef (2018), "Deep generative modeling for single-cell transcriptomics" (the
        rates there also have a library size).
    """

    discrete: ClassVar[bool] = True
    logarithmic: ClassVar[bool] = True
    inflated: ClassVar[bool] = False
    support = f"whole numbers from 0 to {LARGEST_COUNT}"
    dispersion: str = "column"

    def __post_init__(self) -> None:
        check_choice(self, "dispersion", DISPERSIONS)

    def parameter_shape(self, shape: Size) -> Size:
        return stacked(shape, 1 + self.inflated + (self.dispersion == "each"))

    def units(self, train: Any) -> Units:
        """Mean and standard deviation of all values.

        Raises:
            FlowvaeError: for data whose dtype is not torch's default, or counts that are all 0.
        """
        units = count_units(train)
        refuse_zeros(units.center)
        return units

    def build(self, shape: Size, units: Units) -> Likelihood:
        return _NegativeBinomial(shape, units, self.dispersion, self.inflated)

    def violations(self, x: Tensor) -> Tensor:
        return (x < 0) | (x > LARGEST_COUNT) | (x != x.round())


@dataclass(frozen=True)
class ZeroInflatedNegativeBinomialLikelihood(NegativeBinomialLikelihood, name="zero-inflated-negative-binomial"):
    """Counts of a negative binomial distribution, of which a share π is replaced by zeros.

    For data (C, H, W), the first C channels of the decoder's output are h as in `NegativeBinomialLikelihood`, and the
    next C are the logits of π, shifted so that π is 12 % where they are 0.

    Args:
        dispersion: "column" or "each"; see `NegativeBinomialLikelihood`.
    """

    inflated: ClassVar[bool] = True
