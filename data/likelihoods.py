"""What the numbers of a data set are: their support, and the distribution that a decoder parametrizes.

A likelihood is a property of the data (grey levels counted from 0 to 16 are binomial whatever the decoder),
so it is named where the data are, and checked against them before any work starts.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from flowvae.data.binomial import BinomialOfOneTotal, log_coefficients
from flowvae.errors import FlowvaeError, nearest, number, whole

__all__ = [
    "LIKELIHOODS",
    "Bernoulli",
    "Binomial",
    "Gaussian",
    "Likelihood",
    "LikelihoodSpec",
    "parse_likelihood",
]


class Likelihood(nn.Module, ABC):
    """p(x | parameters): turns what a decoder gives into a Pyro distribution over data of shape (..., D)."""

    center: Tensor
    unit: Tensor

    def __init__(self, center: Tensor, unit: Tensor) -> None:
        super().__init__()
        self.register_buffer("center", center)
        self.register_buffer("unit", unit)

    @abstractmethod
    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        """The distribution over x, event shape (D,), from decoder outputs of shape (..., D)."""

    @abstractmethod
    def mean(self, parameters: Tensor) -> Tensor:
        """E[x | parameters], shape (..., D), in the units of the data."""


@dataclass(frozen=True)
class LikelihoodSpec(ABC):
    """Settings of a likelihood.

    Attributes:
        discrete: whether log-probabilities are of counts, so that bits/dim are an absolute code length.
    """

    discrete: ClassVar[bool]

    @abstractmethod
    def build(self, train: Tensor) -> Likelihood:
        """The likelihood; data of shape (N, D) give it the units that it works in."""

    @abstractmethod
    def violations(self, x: Tensor) -> Tensor:
        """Where values lie outside the support: boolean, shape of x."""

    @abstractmethod
    def __str__(self) -> str:
        """The text form, which `parse_likelihood` reads."""

    @property
    @abstractmethod
    def support(self) -> str:
        """The support in words."""


class _BernoulliLikelihood(Likelihood):
    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        return dist.Bernoulli(logits=parameters).to_event(1)

    def mean(self, parameters: Tensor) -> Tensor:
        return torch.sigmoid(parameters)


@dataclass(frozen=True)
class Bernoulli(LikelihoodSpec):
    """Binary data, 0 or 1."""

    discrete: ClassVar[bool] = True
    support = "0 or 1"

    def build(self, train: Tensor) -> Likelihood:
        return _BernoulliLikelihood(torch.zeros(()), torch.ones(()))

    def violations(self, x: Tensor) -> Tensor:
        return (x != 0) & (x != 1)

    def __str__(self) -> str:
        return "bernoulli"


class _BinomialLikelihood(Likelihood):
    coefficients: Tensor

    def __init__(self, total: int) -> None:
        super().__init__(torch.zeros(()), torch.tensor(float(total)))
        known = log_coefficients(total).to(torch.get_default_dtype())
        self.register_buffer("coefficients", known, persistent=False)

    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        return BinomialOfOneTotal.of(self.coefficients, parameters).to_event(1)

    def mean(self, parameters: Tensor) -> Tensor:
        return self.unit * torch.sigmoid(parameters)


@dataclass(frozen=True)
class Binomial(LikelihoodSpec):
    """Counts from 0 to `total`, such as grey levels.

    Args:
        total: the largest count.
    """

    discrete: ClassVar[bool] = True
    total: int = 16

    def __post_init__(self) -> None:
        whole(self, "total")

    @property
    def support(self) -> str:
        return f"whole numbers from 0 to {self.total}"

    def build(self, train: Tensor) -> Likelihood:
        return _BinomialLikelihood(self.total)

    def violations(self, x: Tensor) -> Tensor:
        return (x < 0) | (x > self.total) | (x != x.round())

    def __str__(self) -> str:
        return f"binomial:{self.total}"


class _GaussianLikelihood(Likelihood):
    """Normal with the decoder's output as mean, in units of the data's own location and spread."""

    log_scale: Tensor

    def __init__(self, center: Tensor, unit: Tensor, scale: float | None) -> None:
        super().__init__(center, unit)
        if scale is None:
            self.log_scale = nn.Parameter(torch.zeros(()))  # in units of `unit`
        else:
            self.register_buffer("log_scale", math.log(scale) - unit.log())

    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        return dist.Normal(self.mean(parameters), self.unit * self.log_scale.exp()).to_event(1)

    def mean(self, parameters: Tensor) -> Tensor:
        return self.center + self.unit * parameters


@dataclass(frozen=True)
class Gaussian(LikelihoodSpec):
    """Real-valued data with Gaussian noise.

    Args:
        scale: standard deviation of the noise, in the units of the data; None: learned, as one fraction of
            each column's own standard deviation.
    """

    discrete: ClassVar[bool] = False
    support = "finite numbers"
    scale: float | None = None

    def __post_init__(self) -> None:
        number(self, "scale", optional=True)

    def build(self, train: Tensor) -> Likelihood:
        if len(train) < 2:
            raise FlowvaeError("train has 1 row: gaussian takes its units from the spread of train; give 2 or more.")
        unit = train.std(0)
        # a constant column has no spread of its own: it is measured in units of the others
        unit = torch.where(unit > 1e-6 * unit.max(), unit, unit.max().clamp_min(1e-6))
        return _GaussianLikelihood(train.mean(0), unit, self.scale)

    def violations(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x, dtype=torch.bool)

    def __str__(self) -> str:
        return "gaussian" if self.scale is None else f"gaussian:{self.scale}"


LIKELIHOODS: dict[str, type[LikelihoodSpec]] = {
    "bernoulli": Bernoulli,
    "binomial": Binomial,
    "gaussian": Gaussian,
}


def parse_likelihood(text: str) -> LikelihoodSpec:
    """Read a likelihood from its text form: bernoulli, binomial:16, gaussian or gaussian:0.1.

    Raises:
        FlowvaeError: for an unknown name or a number that does not belong to it.

    >>> parse_likelihood("binomial:16")
    Binomial(total=16)
    """
    name, colon, value = text.partition(":")
    if name not in LIKELIHOODS:
        raise FlowvaeError(f"likelihood {text!r}: {nearest(name, LIKELIHOODS)}")
    try:
        if name == "binomial":
            return Binomial(int(value))
        if name == "gaussian":
            return Gaussian(float(value) if colon else None)
    except ValueError as error:
        if isinstance(error, FlowvaeError):
            raise
        form = "binomial:TOTAL, such as binomial:16" if name == "binomial" else "gaussian or gaussian:SCALE"
        raise FlowvaeError(f"likelihood {text!r}: must have the form {form}.") from None
    if colon:
        raise FlowvaeError(f"likelihood {text!r}: bernoulli takes no number.")
    return Bernoulli()
