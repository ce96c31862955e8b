"""Autoregressive flows with monotone univariate maps, inverted by bisection."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import zuko
from zuko.lazy import Flow, LazyTransform

from flowvae.core.errors import check_int
from flowvae.core.parts import Cost
from flowvae.flows.spec import NetworkFlowSpec, start_as_identity

__all__ = ["NAF", "SOSPF", "UNAF"]


@dataclass(frozen=True)
class _Bisected(NetworkFlowSpec):
    """Base class of `NAF`, `UNAF` and `SOSPF`.

    Between transforms codes are squashed into [-11, 11], and the inverse is searched in [-10, 10]. The mass outside is
    missing from the density, and draws outside are wrong.
    """

    roles: ClassVar[tuple[str, ...]] = ("prior",)
    why_not: ClassVar[str] = "its draws come from a bisection on [-10, 10], slow and wrong outside"
    proper: ClassVar[bool] = False

    @property
    def starts_as_identity(self) -> bool:
        return False

    def transform(self, features: int, context: int = 0) -> LazyTransform:
        self.check_features(features)
        return start_as_identity(self._flow(features, context).transform)

    @abstractmethod
    def _flow(self, features: int, context: int) -> Flow:
        """Build zuko's flow."""

    def cost(self, features: int) -> Cost:
        steps = self.transforms
        return Cost(density=steps, sample=steps * features, sample_and_density=steps * (features + 1))


@dataclass(frozen=True)
class NAF(_Bisected, name="naf"):
    """Neural autoregressive flow: u_i is a monotone network of z_i, conditioned on a signal computed from z_{<i}.

    Args:
        signal: size of the signal that conditions each monotone network.

    References:
        Huang, Krueger, Lacoste & Courville (2018), "Neural Autoregressive Flows".
    """

    title: ClassVar[str] = "neural autoregressive flow"
    paper: ClassVar[str] = "Huang et al. 2018"

    signal: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        check_int(self, "signal")

    def _flow(self, features: int, context: int) -> Flow:
        return zuko.flows.NAF(
            features, context, transforms=self.transforms, signal=self.signal, hidden_features=self.hidden_features
        )


@dataclass(frozen=True)
class UNAF(_Bisected, name="unaf"):
    """Unconstrained neural autoregressive flow: u_i is the integral of a positive network of z_i.

    Args:
        signal: size of the signal that conditions each integrand.

    References:
        Wehenkel & Louppe (2019), "Unconstrained Monotonic Neural Networks".
    """

    title: ClassVar[str] = "unconstrained neural autoregressive flow"
    paper: ClassVar[str] = "Wehenkel & Louppe 2019"
    twice_differentiable: ClassVar[bool] = False  # the gradient of zuko's integral is not differentiable

    signal: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        check_int(self, "signal")

    def _flow(self, features: int, context: int) -> Flow:
        return zuko.flows.UNAF(
            features, context, transforms=self.transforms, signal=self.signal, hidden_features=self.hidden_features
        )


@dataclass(frozen=True)
class SOSPF(_Bisected, name="sospf"):
    """Sum-of-squares polynomial flow: u_i is the integral of a sum of squared polynomials of z_i.

    Args:
        degree: degree of the polynomials.
        polynomials: number of polynomials in the sum.

    References:
        Jaini, Selby & Yu (2019), "Sum-of-Squares Polynomial Flow".
    """

    title: ClassVar[str] = "sum-of-squares polynomial flow"
    paper: ClassVar[str] = "Jaini et al. 2019"
    twice_differentiable: ClassVar[bool] = False  # the gradient of zuko's integral is not differentiable

    degree: int = 4
    polynomials: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_int(self, "degree")
        check_int(self, "polynomials")

    def _flow(self, features: int, context: int) -> Flow:
        return zuko.flows.SOSPF(
            features,
            context,
            degree=self.degree,
            polynomials=self.polynomials,
            transforms=self.transforms,
            hidden_features=self.hidden_features,
        )
