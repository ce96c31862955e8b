"""A guide that reads the datum: encoder features in, distribution over the code out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import pyro
from torch import Tensor, nn
from zuko.lazy import LazyDistribution

from flowvae.flows.pyro_adapter import to_pyro
from flowvae.flows.spec import Cost
from flowvae.guides.local_parameters import local_parameters
from flowvae.networks import check_columns, check_rows, columns_of, declare_parameters

__all__ = ["AmortizedGuide", "GuideSpec", "LogJoint"]

LogJoint = Callable[[Tensor, Tensor], Tensor]  # data (N, D) and codes (S, N, latent) to log p(x, z), shape (S, N)


@dataclass(frozen=True)
class GuideSpec(ABC):
    """Settings of a guide; building it gives q(z | h), h being the features of an encoder."""

    title: ClassVar[str]
    paper: ClassVar[str]

    @abstractmethod
    def build(self, features: int, context: int) -> LazyDistribution:
        """A lazy distribution over R^features, conditioned on encoder features (..., context)."""

    def guide(self, encoder: nn.Module, features: int, context: int, log_joint: LogJoint) -> AmortizedGuide:
        """The guide with this head.

        Args:
            encoder: a network (..., D) → (..., context).
            features: dimension of the code.
            context: numbers that the encoder gives.
            log_joint: of the model, for guides that look into it; most do not.
        """
        return AmortizedGuide(encoder, self.build(features, context))

    @abstractmethod
    def cost(self, features: int) -> Cost:
        """Network passes after the encoder."""


class AmortizedGuide(nn.Module):
    """z ~ q(z | encoder(x)), independently for every datum: site "z" in a plate "data".

    Args:
        encoder: a network (..., D) → (..., context).
        head: a lazy distribution over the code given the encoder's features.
    """

    def __init__(self, encoder: nn.Module, head: LazyDistribution) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, x: Tensor, size: int | None = None) -> Tensor:
        """The guide for data of shape (N, D); takes the model's arguments, as Pyro wants it.

        Raises:
            FlowvaeError: for data of another shape or type.
        """
        self.check(x)
        declare_parameters("guide", self)
        posterior = self.posterior(x)
        with pyro.plate("data", len(x)):
            return pyro.sample("z", posterior)

    def check(self, x: Tensor) -> None:
        """Refuse what are no data (N, D) for this guide.

        Raises:
            FlowvaeError: for data of another shape or type.
        """
        check_rows("x", x, columns_of(self.encoder), self.encoder)

    def posterior(self, x: Tensor) -> pyro.distributions.TorchDistribution:
        """q(z | x) for data of shape (..., D).

        Raises:
            FlowvaeError: for another D or type.
        """
        check_columns("x", x, columns_of(self.encoder), self.encoder)
        return to_pyro(self.head(self.encoder(x)))

    def local(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """What q(z | x) is made of for data (N, D): the encoder's features (N, context) and `local_parameters`."""
        features = self.encoder(x)
        return features, local_parameters(self.head, features)
