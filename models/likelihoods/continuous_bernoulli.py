"""The continuous Bernoulli likelihood of numbers from 0 to 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Size, Tensor

from flowvae.core.parts import LikelihoodSpec, Units
from flowvae.models.likelihoods.likelihood import Likelihood

__all__ = ["ContinuousBernoulli", "ContinuousBernoulliLikelihood"]

SMALL = 1.0  # |l| below which series are used
# coefficients of y², y⁴, … in log(sinh(y) / y), and of y, y³, … in its derivative coth(y) − 1/y
LOG_SINHC = (1 / 6, -1 / 180, 1 / 2835, -1 / 37800, 1 / 467775, -691 / 3831077250, 2 / 127702575)
LEAST_LOGIT = 1e-4  # in draws; for a smaller |l| the density is uniform in floating point


class ContinuousBernoulli(TorchDistribution):
    """Continuous Bernoulli: λˣ (1 − λ)¹⁻ˣ on 0 ≤ x ≤ 1, normalized: p(x) = l eˡˣ / (eˡ − 1) with l = log(λ / (1 − λ)).

    It is computed as log p(x) = l (x − 1/2) − log(sinh(y) / y) with y = l / 2, which has no pole at λ = 1/2.

    Args:
        logits: l, of any shape.

    References:
        Loaiza-Ganem & Cunningham (2019), "The continuous Bernoulli: fixing a pervasive error in variational
        autoencoders".
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"logits": constraints.real}
    support = constraints.unit_interval

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = logits
        super().__init__(logits.shape, validate_args=validate_args)

    def expand(self, batch_shape: Size, _instance: object = None) -> ContinuousBernoulli:
        """Expand the batch shape."""
        new = ContinuousBernoulli(self.logits.expand(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Compute the log-density in nats, for values of the batch shape."""
        if self._validate_args:
            self._validate_sample(value)
        logits, small = self.logits, self._small
        squared = (logits / 2).square().where(small, 0.0)
        series = torch.zeros_like(logits)
        for coefficient in reversed(LOG_SINHC):
            series = (series + coefficient) * squared
        size = logits.abs().where(~small, 1.0)
        # l x − max(l, 0) first: both are large, and their difference is not
        large = logits * value - logits.clamp_min(0) - (-torch.expm1(-size) / size).log()
        return torch.where(small, logits * (value - 0.5) - series, large)

    @property
    def mean(self) -> Tensor:
        """E[x] = 1/2 + (coth y − 1/y) / 2."""
        half, small = self.logits / 2, self._small
        squared = half.square().where(small, 0.0)
        series = torch.zeros_like(half)
        for power, coefficient in reversed([*enumerate(LOG_SINHC, start=1)]):
            series = series * squared + 2 * power * coefficient
        y = half.where(~small, 1.0)
        return 0.5 + 0.5 * torch.where(small, series * half, 1 / torch.tanh(y) - 1 / y)

    @property
    def _small(self) -> Tensor:
        return self.logits.abs() < SMALL

    @torch.no_grad()
    def sample(self, sample_shape: Any = Size()) -> Tensor:  # noqa: B008
        """Draw by the inverse distribution function, shape sample_shape + batch shape."""
        logits = self.logits.expand(*sample_shape, *self.batch_shape)
        down = -logits.abs().clamp_min(LEAST_LOGIT)  # negative, so that nothing overflows
        x = torch.log1p(torch.rand_like(logits) * torch.expm1(down)) / down
        return torch.where(logits > 0, 1 - x, x).clamp(0, 1)


class _ContinuousBernoulli(Likelihood):
    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        return ContinuousBernoulli(parameters).to_event(len(self.shape))


@dataclass(frozen=True)
class ContinuousBernoulliLikelihood(LikelihoodSpec, name="continuous-bernoulli"):
    """Numbers from 0 to 1, endpoints included, such as grey levels; the decoder gives the logits."""

    discrete: ClassVar[bool] = False
    support = "numbers from 0 to 1"

    def build(self, shape: Size, units: Units) -> Likelihood:
        return _ContinuousBernoulli(shape, units)

    def violations(self, x: Tensor) -> Tensor:
        return (x < 0) | (x > 1)
