"""What every flow family is: a frozen spec that builds a zuko lazy transform."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn
from zuko.distributions import DiagNormal
from zuko.flows.gaussianization import ElementWiseTransform
from zuko.lazy import Flow, LazyComposedTransform, LazyDistribution, LazyTransform, UnconditionalDistribution

from flowvae.core.errors import MOST_LAYERS, FlowvaeError, SlowDirectionWarning, check_int, check_widths

__all__ = [
    "Cost",
    "FlowSpec",
    "NetworkFlowSpec",
    "standard_normal",
    "start_as_identity",
    "warn_if_slow",
    "with_affine_front",
]

SLOW = 3  # times the cost of the other direction, from which a warning is worth its noise


@dataclass(frozen=True)
class Cost:
    """What a flow costs, counted in passes through its networks.

    A family without networks says in its docstring what it counts as a pass.

    Args:
        density: log-density of a given z, the *normalizing* direction z → u. A prior pays this in training.
        sample: one draw, the *generative* direction u → z. A prior pays this when the model generates.
        sample_and_density: a draw with its own log-density. A guide pays this in training.
    """

    density: int
    sample: int
    sample_and_density: int


@dataclass(frozen=True)
class FlowSpec(ABC):
    """A family of flows with its settings; building it gives a zuko lazy transform.

    The transform's call is the *normalizing* direction z → u, which is zuko's convention; its inverse is the
    *generative* direction u → z. Every family that can starts as the identity (`starts_as_identity`), so that a VAE
    whose prior or guide is a flow starts as the same VAE without it.
    """

    title: ClassVar[str]
    paper: ClassVar[str]
    roles: ClassVar[tuple[str, ...]] = ("prior", "posterior")
    why_not: ClassVar[str] = ""  # why the family has no other role
    turned: ClassVar[str] = ""  # the family that its inverse is, where that has a name of its own
    proper: ClassVar[bool] = True  # whether it is a normalized density on all of R^D, whatever its parameters
    least_features: ClassVar[int] = 2
    twice_differentiable: ClassVar[bool] = True  # whether gradients of its gradients can be had

    @property
    def starts_as_identity(self) -> bool:
        """Whether the untrained flow is the identity: true of all families but those that cannot be."""
        return True

    @abstractmethod
    def transform(self, features: int, context: int = 0) -> LazyTransform:
        """The lazy transform over R^features, conditioned on a context of that many numbers (0: on nothing).

        Raises:
            FlowvaeError: if the family cannot act on so few features.
        """

    @abstractmethod
    def cost(self, features: int) -> Cost:
        """Network passes that each direction costs at this latent size."""

    def build(self, features: int, context: int = 0) -> LazyDistribution:
        """The flow as a distribution over R^features with base N(0, I), shape (..., features)."""
        return Flow(self.transform(features, context), standard_normal(features))

    def check_features(self, features: int) -> None:
        """Refuse a latent size on which this family is not what its name says."""
        if features < self.least_features:
            raise FlowvaeError(
                f"latent = {features} with {type(self).__name__}: it lets dimensions depend on one another "
                f"and needs {self.least_features} or more. Use a larger latent, or prior normal and guide "
                "gaussian."
            )


@dataclass(frozen=True)
class NetworkFlowSpec(FlowSpec):
    """A flow that stacks transforms whose parameters come from masked or plain multilayer perceptrons.

    The defaults are small: they were chosen on validation digits, where a thousand codes train a prior. Where
    data are plenty, three transforms of (64, 64) or more are common.

    Args:
        transforms: how many transforms are stacked.
        hidden_features: widths of the hidden layers of each transform's network.
    """

    transforms: int = 2
    hidden_features: tuple[int, ...] = (32,)

    def __post_init__(self) -> None:
        check_int(self, "transforms", most=MOST_LAYERS)
        check_widths(self, "hidden_features")


class _HasCost(Protocol):
    def cost(self, features: int) -> Cost: ...


def warn_if_slow(family: _HasCost, features: int, use: Literal["as a prior", "as a guide", "in a decoder"]) -> None:
    """Warn where the training pays for the dear direction of a family, and the other one is much cheaper.

    The warning points at the caller of the function that calls this one.
    """
    cost = family.cost(features)
    what, passes, turned = {
        "as a prior": ("the density of a code", cost.density, cost.sample),
        "as a guide": ("a draw with its density", cost.sample_and_density, cost.density),
        "in a decoder": ("a draw", cost.sample, cost.density),
    }[use]
    if passes > SLOW * max(turned, 1):
        name = type(family).__name__
        inside = getattr(family, "flow", None) if name == "Inverse" else None  # a class of a file that imports this one
        other = type(inside).__name__ if inside else getattr(family, "turned", "") or f"Inverse({name}(...))"
        warnings.warn(
            f"{name} {use}: {what} costs {passes} network passes at latent {features}; inverted, {other}, it costs "
            f"{turned}.",
            SlowDirectionWarning,
            stacklevel=3,
        )


def standard_normal(features: int) -> LazyDistribution:
    """N(0, I) over R^features, as buffers: it moves with the module and is not trained."""
    return UnconditionalDistribution(DiagNormal, loc=torch.zeros(features), scale=torch.ones(features), buffer=True)


def with_affine_front(transform: LazyTransform, features: int, context: int) -> LazyTransform:
    """A learned shift and scale of every dimension before the transform, for flows that act on a box only.

    With a context they are a function of it.
    """
    front = start_as_identity(ElementWiseTransform(features, context))
    return LazyComposedTransform(front, transform)


def start_as_identity(transform: LazyTransform) -> LazyTransform:
    """Zero the last layer of every network inside, and every directly learned parameter.

    For affine, additive and spline transforms, all-zero parameters are the identity map.
    """
    for module in transform.modules():
        hyper = getattr(module, "hyper", None)
        if isinstance(hyper, nn.Sequential):
            _zero(hyper[-1].parameters())
        if isinstance(getattr(module, "phi", None), nn.ParameterList):
            _zero(module.phi)
    return transform


def _zero(parameters: object) -> None:
    for parameter in parameters:  # type: ignore[attr-defined]
        if isinstance(parameter, Tensor):
            nn.init.zeros_(parameter)
