"""Distributions of one number given the earlier ones: what an autoregressive network's outputs parametrize.

Which of them fits depends on what the numbers are, and that is said by the likelihood of the data.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from flowvae.core.errors import FlowvaeError, check_int, shown
from flowvae.data.likelihoods import (
    LEAST_LOG_SCALE,
    BernoulliLikelihood,
    BinomialLikelihood,
    GaussianLikelihood,
    LikelihoodSpec,
    check_type,
)
from flowvae.models.likelihoods.discretized import DiscretizedLogisticMixture

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
    """p(x_i | parameters_i), elementwise.

    Args:
        likelihood: what the numbers are.
        parameters: P, how many parameters a number has.
        center: of the data, scalar or (D,).
        unit: of the data, scalar or (D,); networks see (x − center) / unit.
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
        """The distribution of batch shape (..., D) over numbers, in units of the data, from (..., D, P)."""

    def standardize(self, x: Tensor) -> Tensor:
        """Data (..., D) in the units that networks see."""
        return (x - self.center) / self.unit


@dataclass(frozen=True)
class AutoregressiveLikelihoodSpec(ABC):
    """Settings of a head."""

    title: ClassVar[str]
    kinds: ClassVar[tuple[type[LikelihoodSpec], ...]]

    def build(self, likelihood: LikelihoodSpec, train: Tensor) -> AutoregressiveLikelihood:
        """The head for data of this likelihood; data (N, D) give it its units.

        Raises:
            FlowvaeError: if the head is for other numbers, or the data are not of torch's default type.
        """
        if not isinstance(likelihood, self.kinds):
            other = shown(default_autoregressive_likelihood(likelihood))
            raise FlowvaeError(
                f"{type(self).__name__} for {likelihood} data ({likelihood.support}): it is for "
                f"{' and '.join(kind.__name__ for kind in self.kinds)} data. Use {other}."
            )
        check_type(train)
        return self._build(likelihood, train)

    @abstractmethod
    def _build(self, likelihood: LikelihoodSpec, train: Tensor) -> AutoregressiveLikelihood: ...


class _Counts(AutoregressiveLikelihood):
    """Numbers 0, …, total, which networks see in [−1, 1]."""

    def __init__(self, likelihood: LikelihoodSpec, parameters: int) -> None:
        half = torch.tensor(_total(likelihood) / 2)
        super().__init__(likelihood, parameters, half, half.clone())
        self.total = _total(likelihood)


class _Bernoulli(_Counts):
    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        return dist.Bernoulli(logits=parameters.squeeze(-1))


@dataclass(frozen=True)
class AutoregressiveBernoulli(AutoregressiveLikelihoodSpec):
    """One logit a bit: P = 1."""

    title: ClassVar[str] = "Bernoulli"
    kinds = (BernoulliLikelihood,)

    def _build(self, likelihood: LikelihoodSpec, train: Tensor) -> AutoregressiveLikelihood:
        return _Bernoulli(likelihood, 1)


class _Categorical(_Counts):
    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        return dist.Categorical(logits=parameters)


@dataclass(frozen=True)
class AutoregressiveCategorical(AutoregressiveLikelihoodSpec):
    """A probability for each count from 0 to total, without any order among them: P = total + 1."""

    title: ClassVar[str] = "categorical"
    kinds = (BernoulliLikelihood, BinomialLikelihood)

    def _build(self, likelihood: LikelihoodSpec, train: Tensor) -> AutoregressiveLikelihood:
        return _Categorical(likelihood, _total(likelihood) + 1)


class _LogisticMixture(_Counts):
    start: Tensor

    def __init__(self, likelihood: LikelihoodSpec, components: int) -> None:
        super().__init__(likelihood, 3 * components)
        self.register_buffer("start", _spread(components))

    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        logits, loc, log_scale = parameters.chunk(3, dim=-1)
        # outputs near zero, as at the start, are components about as wide as the distance between them
        log_scale = (log_scale - 1).clamp_min(LEAST_LOG_SCALE)
        return DiscretizedLogisticMixture(logits, loc + self.start, log_scale, self.total)


@dataclass(frozen=True)
class AutoregressiveLogisticMixture(AutoregressiveLikelihoodSpec):
    """Mixture of discretized logistics over the counts from 0 to total: P = 3 · components.

    Args:
        components: how many logistics.
    """

    title: ClassVar[str] = "mixture of discretized logistics"
    kinds = (BinomialLikelihood,)

    components: int = 5

    def __post_init__(self) -> None:
        check_int(self, "components")

    def _build(self, likelihood: LikelihoodSpec, train: Tensor) -> AutoregressiveLikelihood:
        return _LogisticMixture(likelihood, self.components)


class _GaussianMixture(AutoregressiveLikelihood):
    start: Tensor

    def __init__(self, likelihood: LikelihoodSpec, components: int, center: Tensor, unit: Tensor) -> None:
        super().__init__(likelihood, 3 * components, center, unit)
        self.register_buffer("start", _spread(components))

    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        logits, loc, log_scale = parameters.chunk(3, dim=-1)
        unit = self.unit[:, None]
        normal = dist.Normal(
            self.center[:, None] + unit * (loc + self.start), unit * log_scale.clamp_min(LEAST_LOG_SCALE).exp()
        )
        return dist.MixtureSameFamily(dist.Categorical(logits=logits), normal)


@dataclass(frozen=True)
class AutoregressiveGaussianMixture(AutoregressiveLikelihoodSpec):
    """Mixture of Gaussians over real numbers, in units of each column's own spread: P = 3 · components.

    The noise scale that a Gaussian likelihood may name belongs to a decoder; here every component has its own.

    Args:
        components: how many Gaussians.
    """

    title: ClassVar[str] = "mixture of Gaussians"
    kinds = (GaussianLikelihood,)

    components: int = 5

    def __post_init__(self) -> None:
        check_int(self, "components")

    def _build(self, likelihood: LikelihoodSpec, train: Tensor) -> AutoregressiveLikelihood:
        units = likelihood.build(train)
        return _GaussianMixture(likelihood, self.components, units.center, units.unit)


def default_autoregressive_likelihood(likelihood: LikelihoodSpec) -> AutoregressiveLikelihoodSpec:
    """The head for data of this likelihood, where none is named.

    >>> default_autoregressive_likelihood(BinomialLikelihood(16))
    AutoregressiveLogisticMixture(components=5)
    """
    if isinstance(likelihood, BernoulliLikelihood):
        return AutoregressiveBernoulli()
    return (
        AutoregressiveLogisticMixture()
        if isinstance(likelihood, BinomialLikelihood)
        else AutoregressiveGaussianMixture()
    )


def _spread(components: int) -> Tensor:
    """Where components begin: those that all begin at the same place learn the same thing for long."""
    return torch.linspace(-1, 1, components) if components > 1 else torch.zeros(1)


def _total(likelihood: LikelihoodSpec) -> int:
    """The largest count; a bit is a count from 0 to 1."""
    return likelihood.total if isinstance(likelihood, BinomialLikelihood) else 1
