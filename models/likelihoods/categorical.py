"""The categorical likelihood of unordered whole numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Size, Tensor

from flowvae.core.errors import check_int
from flowvae.core.parts import LikelihoodSpec, Units
from flowvae.models.likelihoods.likelihood import Likelihood

__all__ = ["CategoricalLikelihood"]


class _FloatCategorical(dist.Categorical):
    """Pyro's categorical, with draws in the dtype of its logits, which is that of the data."""

    def sample(self, *args: Any, **kwargs: Any) -> Tensor:
        drawn: Tensor = super().sample(*args, **kwargs)
        return drawn.to(self.logits.dtype)


class _Categorical(Likelihood):
    def __init__(self, shape: Size, units: Units, classes: int) -> None:
        super().__init__(shape, units)
        self.classes = classes

    def forward(self, parameters: Tensor) -> dist.TorchDistribution:
        return _FloatCategorical(logits=self._logits(parameters)).to_event(len(self.shape))

    def mean(self, parameters: Tensor) -> Tensor:
        probabilities = self._logits(parameters).softmax(-1)
        return probabilities @ torch.arange(self.classes, dtype=parameters.dtype, device=parameters.device)

    def _logits(self, parameters: Tensor) -> Tensor:
        """From (..., K · C, H, W) to (..., C, H, W, K)."""
        axis = -len(self.shape)
        return parameters.unflatten(axis, (self.classes, self.shape[0])).movedim(axis - 1, -1)


@dataclass(frozen=True)
class CategoricalLikelihood(LikelihoodSpec, name="categorical"):
    """Whole numbers from 0 to K − 1, each with its own probability.

    The decoder gives K logits per value, shape (K · C, H, W) for data (C, H, W): the first C channels are the logits of
    0, the next C those of 1, and so on. Data are numbers, not one-hot vectors.

    Args:
        classes: K, two or more.

    Raises:
        FlowvaeError: for fewer than two classes.
    """

    discrete: ClassVar[bool] = True
    classes: int

    def __post_init__(self) -> None:
        check_int(self, "classes", least=2)

    @property
    def support(self) -> str:
        return f"whole numbers from 0 to {self.largest}"

    @property
    def largest(self) -> int:
        return self.classes - 1

    def parameter_shape(self, shape: Size) -> Size:
        return Size((self.classes * shape[0], *shape[1:]))

    def units(self, train: Any) -> Units:
        return Units(super().units(train).center, torch.tensor(float(self.largest)))

    def build(self, shape: Size, units: Units) -> Likelihood:
        return _Categorical(shape, units, self.classes)

    def violations(self, x: Tensor) -> Tensor:
        return (x < 0) | (x > self.largest) | (x != x.round())
