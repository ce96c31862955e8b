"""What the numbers of a data set are: their support, and the distribution that a decoder parametrizes.

A likelihood is a property of the data (grey levels counted from 0 to 16 are binomial whatever the decoder),
so it is named where the data are, and checked against them before any work starts.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from flowvae.core.errors import FlowvaeError, check_bool, check_int, check_number, nearest, shown
from flowvae.data.binomial import FixedTotalBinomial, log_coefficients
from flowvae.data.precision import LARGEST, SMALLEST, check_outliers, column_units

__all__ = [
    "LIKELIHOODS",
    "BernoulliLikelihood",
    "BinomialLikelihood",
    "GaussianLikelihood",
    "Likelihood",
    "LikelihoodSpec",
    "check_type",
    "parse_likelihood",
]

LEAST_LOG_SCALE = -7.0  # in units of the spread: a narrower density would fit rounding, not data
LARGEST_TOTAL = 2**16  # float32 rounds its log-probabilities by less than 0.01 nats a value


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

    def check(self, name: str, splits: Mapping[str, Tensor]) -> None:  # noqa: B027  (most have nothing to refuse)
        """Refuse data in the support whose density cannot be computed.

        Args:
            name: of the data, for messages.
            splits: data (N, D) by the name of the split; "train" and possibly others.

        Raises:
            FlowvaeError: for such data; names the column.
        """

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


class _Bernoulli(Likelihood):
    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        return dist.Bernoulli(logits=parameters).to_event(1)

    def mean(self, parameters: Tensor) -> Tensor:
        return torch.sigmoid(parameters)


@dataclass(frozen=True)
class BernoulliLikelihood(LikelihoodSpec):
    """Binary data, 0 or 1."""

    discrete: ClassVar[bool] = True
    support = "0 or 1"

    def build(self, train: Tensor) -> Likelihood:
        check_type(train)
        return _Bernoulli(torch.zeros(()), torch.ones(()))

    def violations(self, x: Tensor) -> Tensor:
        return (x != 0) & (x != 1)

    def __str__(self) -> str:
        return "bernoulli"


class _Binomial(Likelihood):
    coefficients: Tensor

    def __init__(self, total: int) -> None:
        super().__init__(torch.zeros(()), torch.tensor(float(total)))
        known = log_coefficients(total).to(torch.get_default_dtype())
        self.register_buffer("coefficients", known, persistent=False)

    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        return FixedTotalBinomial.of(self.coefficients, parameters).to_event(1)

    def mean(self, parameters: Tensor) -> Tensor:
        return self.unit * torch.sigmoid(parameters)


@dataclass(frozen=True)
class BinomialLikelihood(LikelihoodSpec):
    """Counts from 0 to `total`, such as grey levels.

    Args:
        total: the largest count, 65,536 at most.
    """

    discrete: ClassVar[bool] = True
    total: int = 16

    def __post_init__(self) -> None:
        check_int(self, "total")
        if self.total > LARGEST_TOTAL:
            raise FlowvaeError(
                f"Binomial.total = {shown(self.total)}: must be {LARGEST_TOTAL} at most. Its table takes "
                f"{4 * (self.total + 1):,} bytes, and float32 would round a log-probability by "
                f"{math.log(2) * self.total * 2**-23:.1g} nats a value; divide the counts, or take them as gaussian."
            )

    @property
    def support(self) -> str:
        return f"whole numbers from 0 to {self.total}"

    def build(self, train: Tensor) -> Likelihood:
        check_type(train)
        return _Binomial(self.total)

    def violations(self, x: Tensor) -> Tensor:
        return (x < 0) | (x > self.total) | (x != x.round())

    def __str__(self) -> str:
        return f"binomial:{self.total}"


class _Gaussian(Likelihood):
    """Normal with the decoder's output as mean, in units of the data's own location and spread."""

    log_scale: Tensor

    def __init__(self, center: Tensor, unit: Tensor, scale: float | None) -> None:
        super().__init__(center, unit)
        self.learned = scale is None
        if scale is None:
            self.log_scale = nn.Parameter(torch.zeros(()))  # in units of `unit`
        else:
            self.register_buffer("log_scale", math.log(scale) - unit.log())

    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        log_scale = self.log_scale
        if self.learned:  # bounded in value and not in gradient, which can lead away from the bound
            log_scale = log_scale + (log_scale.clamp_min(LEAST_LOG_SCALE) - log_scale).detach()
        return dist.Normal(self.mean(parameters), self.unit * log_scale.exp()).to_event(1)

    def mean(self, parameters: Tensor) -> Tensor:
        return self.center + self.unit * parameters


@dataclass(frozen=True)
class GaussianLikelihood(LikelihoodSpec):
    """Real-valued data with Gaussian noise.

    Args:
        scale: standard deviation of the noise, in the units of the data; None: learned, as one fraction of
            each column's own standard deviation, a thousandth at least. A constant column has none, and is refused.
        shared: whether the learned scale is one number for all columns, as for images, whose pixels have one unit and
            may be constant: a fraction of the columns' pooled standard deviation.

    References:
        Rybkin, Daniilidis & Levine (2021), "Simple and effective VAE training with calibrated decoders" (shared).
    """

    discrete: ClassVar[bool] = False
    support = "finite numbers"
    scale: float | None = None
    shared: bool = False

    def __post_init__(self) -> None:
        check_number(self, "scale", optional=True)
        check_bool(self, "shared")
        if self.shared and self.scale is not None:
            raise FlowvaeError(
                f"Gaussian.shared with scale = {self.scale:g}: a fixed scale is one for all anyway; drop one."
            )
        if self.scale is not None and not SMALLEST <= self.scale <= LARGEST:
            raise FlowvaeError(
                f"Gaussian.scale = {self.scale:g}: must be {SMALLEST:g} to {LARGEST:g}, whose squares float32 holds. "
                "Give the data in other units."
            )

    def check(self, name: str, splits: Mapping[str, Tensor]) -> None:
        center, unit = column_units(f"{name}, train", splits["train"], self.scale, self.shared)
        check_outliers(name, splits, center, unit, self.scale)

    def build(self, train: Tensor) -> Likelihood:
        check_type(train)
        center, unit = column_units("train", train, self.scale, self.shared)
        if (unit == 0).any():
            columns = (unit == 0).nonzero().flatten().tolist()
            others = f", and so are {len(columns) - 1} others" if len(columns) > 1 else ""
            raise FlowvaeError(
                f"train: column {columns[0]} is constant ({train[0, columns[0]]:g}){others}, in all {len(train)} rows, "
                "so it has no spread for a noise scale of its own. Leave constant columns out, or have one scale for "
                "all: gaussian:shared learns it, as for images, and gaussian:0.1 fixes it."
            )
        return _Gaussian(center, unit, self.scale)

    def violations(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x, dtype=torch.bool)

    def __str__(self) -> str:
        if self.shared:
            return "gaussian:shared"
        return "gaussian" if self.scale is None else f"gaussian:{self.scale}"


LIKELIHOODS: dict[str, type[LikelihoodSpec]] = {
    "bernoulli": BernoulliLikelihood,
    "binomial": BinomialLikelihood,
    "gaussian": GaussianLikelihood,
}


def parse_likelihood(text: str) -> LikelihoodSpec:
    """Read a likelihood from its text form: bernoulli, binomial:16, gaussian, gaussian:0.1 or gaussian:shared.

    Raises:
        FlowvaeError: for an unknown name or a number that does not belong to it.

    >>> parse_likelihood("binomial:16")
    BinomialLikelihood(total=16)
    """
    name, colon, value = text.partition(":")
    if name not in LIKELIHOODS:
        raise FlowvaeError(f"likelihood {shown(text)}: {nearest(name, LIKELIHOODS)}")
    try:
        if name == "binomial":
            return BinomialLikelihood(int(value))
        if text == "gaussian:shared":
            return GaussianLikelihood(shared=True)
        if name == "gaussian":
            return GaussianLikelihood(float(value) if colon else None)
    except ValueError as error:
        if isinstance(error, FlowvaeError):
            raise
        gaussian = "gaussian, gaussian:SCALE or gaussian:shared"
        form = "binomial:TOTAL, such as binomial:16" if name == "binomial" else gaussian
        raise FlowvaeError(f"likelihood {shown(text)}: must have the form {form}.") from None
    if colon:
        raise FlowvaeError(f"likelihood {shown(text)}: bernoulli takes no number.")
    return BernoulliLikelihood()


def check_type(train: Tensor) -> None:
    """Refuse data of another type than torch's default, which networks are made in.

    Raises:
        FlowvaeError: for such data.
    """
    if train.dtype != torch.get_default_dtype():
        raise FlowvaeError(
            f"train: {train.dtype}, but networks are made in {torch.get_default_dtype()}; convert the data (subtract a "
            f"large offset before), or call torch.set_default_dtype({train.dtype}) first."
        )
