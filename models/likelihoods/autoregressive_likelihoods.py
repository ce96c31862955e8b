"""Autoregressive likelihoods: distributions of one value given the earlier ones, parametrized by a network.

Each is for data of certain likelihoods, such as counts with a known maximum.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from flowvae.core.errors import FlowvaeError, check_int, shown
from flowvae.core.parts import LikelihoodSpec, check_default_type
from flowvae.models.likelihoods.likelihood import LEAST_LOG_SCALE, spread
from flowvae.models.likelihoods.logistic_mixture import LogisticMixture

__all__ = [
    "AutoregressiveBernoulli",
    "AutoregressiveCategorical",
    "AutoregressiveGaussianMixture",
    "AutoregressiveLikelihood",
    "AutoregressiveLikelihoodSpec",
    "AutoregressiveLogisticMixture",
    "default_autoregressive_likelihood",
]


class AutoregressiveLikelihood(nn.Module, ABC):
    """Base class of p(x_i | parameters_i), elementwise for flattened data (..., D).

    Args:
        likelihood: likelihood of the data.
        parameters: P, the number of parameters per value.
        center: center of the data, scalar or (D,).
        unit: unit of the data, scalar or (D,); networks see (x − center) / unit.
    """

    center: Tensor
    unit: Tensor

    def __init__(self, likelihood: LikelihoodSpec, parameters: int, center: Tensor, unit: Tensor) -> None:
        super().__init__()
        self.likelihood = likelihood
        self.parameters_each = parameters
        self.register_buffer("center", center)
        self.register_buffer("unit", unit)

    @abstractmethod
    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        """Return the distribution of the values, batch shape (..., D), in units of the data, for (..., D, P)."""

    def standardize(self, x: Tensor) -> Tensor:
        """Standardize data (..., D), as input of a network."""
        return (x - self.center) / self.unit


@dataclass(frozen=True)
class AutoregressiveLikelihoodSpec(ABC):
    """Settings of an autoregressive likelihood.

    Attributes:
        takes: description of the data that it fits.
    """

    title: ClassVar[str]
    takes: ClassVar[str]

    def build(self, likelihood: LikelihoodSpec, train: Any) -> AutoregressiveLikelihood:
        """Build the autoregressive likelihood for data of a likelihood, with units from training data (N, *shape).

        Raises:
            FlowvaeError: if it does not fit the data, or their dtype is not torch's default.
        """
        if not self.fits(likelihood):
            other = shown(default_autoregressive_likelihood(likelihood))
            raise FlowvaeError(
                f"{type(self).__name__} for {likelihood} data ({likelihood.support}): it fits {self.takes} only. "
                f"Use {other}."
            )
        check_default_type(train.dtype)
        return self._build(likelihood, train)

    @abstractmethod
    def fits(self, likelihood: LikelihoodSpec) -> bool:
        """Whether it fits data of this likelihood."""

    @abstractmethod
    def _build(self, likelihood: LikelihoodSpec, train: Any) -> AutoregressiveLikelihood: ...


class _Counts(AutoregressiveLikelihood):
    """Counts 0, …, total, which are scaled to [−1, 1] for networks."""

    def __init__(self, likelihood: LikelihoodSpec, parameters: int) -> None:
        total = _largest(likelihood)
        half = torch.tensor(total / 2)
        super().__init__(likelihood, parameters, half, half.clone())
        self.total = total


class _Bernoulli(_Counts):
    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        return dist.Bernoulli(logits=parameters.squeeze(-1))


@dataclass(frozen=True)
class AutoregressiveBernoulli(AutoregressiveLikelihoodSpec):
    """One logit per bit: P = 1."""

    title: ClassVar[str] = "Bernoulli"
    takes: ClassVar[str] = "values 0 and 1"

    def fits(self, likelihood: LikelihoodSpec) -> bool:
        return likelihood.largest == 1

    def _build(self, likelihood: LikelihoodSpec, train: Any) -> AutoregressiveLikelihood:
        return _Bernoulli(likelihood, 1)


class _Categorical(_Counts):
    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        return dist.Categorical(logits=parameters)


@dataclass(frozen=True)
class AutoregressiveCategorical(AutoregressiveLikelihoodSpec):
    """One logit for each count from 0 to total, without an order among the counts: P = total + 1."""

    title: ClassVar[str] = "categorical"
    takes: ClassVar[str] = "whole numbers from 0 to a known maximum"

    def fits(self, likelihood: LikelihoodSpec) -> bool:
        return likelihood.largest is not None

    def _build(self, likelihood: LikelihoodSpec, train: Any) -> AutoregressiveLikelihood:
        return _Categorical(likelihood, _largest(likelihood) + 1)


class _LogisticMixture(_Counts):
    start: Tensor

    def __init__(self, likelihood: LikelihoodSpec, components: int) -> None:
        super().__init__(likelihood, 3 * components)
        self.register_buffer("start", spread(components))

    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        logits, loc, log_scale = parameters.chunk(3, dim=-1)
        # outputs near zero, as before training, give components about as wide as the distance between them
        log_scale = (log_scale - 1).clamp_min(LEAST_LOG_SCALE)
        return LogisticMixture(logits, loc + self.start, log_scale, self.total)


@dataclass(frozen=True)
class AutoregressiveLogisticMixture(AutoregressiveLikelihoodSpec):
    """Mixture of discretized logistics over the counts from 0 to total: P = 3 · components.

    Args:
        components: number of logistics.
    """

    title: ClassVar[str] = "mixture of discretized logistics"
    takes: ClassVar[str] = "whole numbers from 0 to a known maximum, 2 or more"

    components: int = 5

    def __post_init__(self) -> None:
        check_int(self, "components")

    def fits(self, likelihood: LikelihoodSpec) -> bool:
        return likelihood.largest is not None and likelihood.largest > 1

    def _build(self, likelihood: LikelihoodSpec, train: Any) -> AutoregressiveLikelihood:
        return _LogisticMixture(likelihood, self.components)


class _GaussianMixture(AutoregressiveLikelihood):
    start: Tensor

    def __init__(self, likelihood: LikelihoodSpec, components: int, center: Tensor, unit: Tensor) -> None:
        super().__init__(likelihood, 3 * components, center, unit)
        self.register_buffer("start", spread(components))

    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        logits, loc, log_scale = parameters.chunk(3, dim=-1)
        unit = self.unit[:, None]
        normal = dist.Normal(
            self.center[:, None] + unit * (loc + self.start), unit * log_scale.clamp_min(LEAST_LOG_SCALE).exp()
        )
        return dist.MixtureSameFamily(dist.Categorical(logits=logits), normal)


@dataclass(frozen=True)
class AutoregressiveGaussianMixture(AutoregressiveLikelihoodSpec):
    """Mixture of Gaussians over real numbers, in units of each column's spread: P = 3 · components.

    The noise scale of a Gaussian likelihood applies to decoders only; here every component has its own scale.

    Args:
        components: number of Gaussians.
    """

    title: ClassVar[str] = "mixture of Gaussians"
    takes: ClassVar[str] = "real numbers"

    components: int = 5

    def __post_init__(self) -> None:
        check_int(self, "components")

    def fits(self, likelihood: LikelihoodSpec) -> bool:
        return not likelihood.discrete

    def _build(self, likelihood: LikelihoodSpec, train: Any) -> AutoregressiveLikelihood:
        center, unit = (part.expand(train.shape[1:]).flatten() for part in likelihood.units(train))
        return _GaussianMixture(likelihood, self.components, center, unit)


def default_autoregressive_likelihood(likelihood: LikelihoodSpec) -> AutoregressiveLikelihoodSpec:
    """Choose the default autoregressive likelihood for data of a likelihood.

    Raises:
        FlowvaeError: for counts without a known maximum.

    >>> from flowvae.models import BinomialLikelihood
    >>> default_autoregressive_likelihood(BinomialLikelihood(16))
    AutoregressiveLogisticMixture(components=5)
    """
    if likelihood.largest is not None:
        return AutoregressiveBernoulli() if likelihood.largest == 1 else AutoregressiveLogisticMixture()
    if likelihood.discrete:
        raise FlowvaeError(
            f"{likelihood} data ({likelihood.support}): there is no autoregressive likelihood of counts without a "
            "known maximum; use binomial:TOTAL or categorical:CLASSES."
        )
    return AutoregressiveGaussianMixture()


def _largest(likelihood: LikelihoodSpec) -> int:
    assert likelihood.largest is not None  # checked by `fits`
    return likelihood.largest
