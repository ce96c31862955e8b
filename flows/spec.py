"""Base classes of flow families, and helpers to build them."""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn
from zuko.distributions import DiagNormal
from zuko.flows.gaussianization import ElementWiseTransform
from zuko.lazy import Flow, LazyComposedTransform, LazyDistribution, LazyTransform, UnconditionalDistribution

from flowvae.core.errors import MOST_LAYERS, FlowvaeError, SlowDirectionWarning, check_int, check_widths
from flowvae.core.parts import Cost, PriorSpec

__all__ = [
    "FlowSpec",
    "NetworkFlowSpec",
    "standard_normal",
    "start_as_identity",
    "warn_if_slow",
    "with_affine_front",
]

SLOW = 3  # ratio of the costs of the two directions above which there is a warning


@dataclass(frozen=True)
class FlowSpec(PriorSpec, kind="flow"):
    """Settings of a flow; `transform` builds a zuko lazy transform.

    The transform's call is the *normalizing* direction z → u, which is zuko's convention; its inverse is the
    *generative* direction u → z. Where possible, a flow starts as the identity (`starts_as_identity`), so that a VAE
    whose prior or guide is a flow starts as the same VAE without it.
    """

    roles: ClassVar[tuple[str, ...]] = ("prior", "posterior")
    why_not: ClassVar[str] = ""  # the reason why the family has no other role
    inverse_name: ClassVar[str] = ""  # name of the family that is the inverse, if there is one
    least_features: ClassVar[int] = 2

    def refuses(self, kind: str) -> str:
        return self.why_not if kind == "prior" and "prior" not in self.roles else ""

    @property
    def starts_as_identity(self) -> bool:
        """Whether the untrained flow is the identity."""
        return True

    @abstractmethod
    def transform(self, features: int, context: int = 0) -> LazyTransform:
        """Build the lazy transform over R^features, given a context of size `context` (0: none).

        Raises:
            FlowvaeError: if the family cannot act on so few features.
        """

    @abstractmethod
    def cost(self, features: int) -> Cost:
        """Network passes of each direction at this latent size."""

    def build(self, features: int, context: int = 0) -> LazyDistribution:
        """Build the flow as a distribution over R^features with base N(0, I), shape (..., features)."""
        size = features if isinstance(features, int) else math.prod(features)
        return Flow(self.transform(features, context), standard_normal(size))

    def check_features(self, features: int) -> None:
        """Check that a latent size is large enough for this family.

        Raises:
            FlowvaeError: if it is not.
        """
        if features < self.least_features:
            raise FlowvaeError(
                f"latent = {features} with {type(self).__name__}: it makes dimensions dependent and needs "
                f"{self.least_features} or more. Use a larger latent, or prior normal and guide "
                "gaussian."
            )


@dataclass(frozen=True)
class NetworkFlowSpec(FlowSpec):
    """Base class of stacks of transforms whose parameters come from masked or plain multilayer perceptrons.

    The defaults are small: they were chosen on validation data of the digits, for priors trained on a thousand codes.
    With more data, three transforms of (64, 64) or more are common.

    Args:
        transforms: number of transforms.
        hidden_features: widths of the hidden layers of each transform's network.

    Raises:
        FlowvaeError: for settings out of range.
    """

    transforms: int = 2
    hidden_features: tuple[int, ...] = (32,)

    def __post_init__(self) -> None:
        check_int(self, "transforms", most=MOST_LAYERS)
        check_widths(self, "hidden_features")


class _HasCost(Protocol):
    def cost(self, features: int) -> Cost: ...


def warn_if_slow(
    family: _HasCost, features: int, use: Literal["as a prior", "as a guide", "in a decoder", "in a prior"]
) -> None:
    """Warn if training uses the expensive direction of a family and the other one is much cheaper.

    The warning is attributed to the caller of the function that calls this one.
    """
    cost = family.cost(features)
    what, passes, inverted = {
        "as a prior": ("the density of a code", cost.density, cost.sample),
        "as a guide": ("a draw with its density", cost.sample_and_density, cost.density),
        "in a decoder": ("a draw", cost.sample, cost.density),
        # a mixture of the guide's posteriors evaluates them at codes of other data points
        "in a prior": ("the guide's density of a code of another data point", cost.density, cost.sample_and_density),
    }[use]
    if passes > SLOW * max(inverted, 1):
        name = type(family).__name__
        inside = getattr(family, "flow", None) if name == "Inverse" else None  # its file imports this one
        other = type(inside).__name__ if inside else getattr(family, "inverse_name", "") or f"Inverse({name}(...))"
        warnings.warn(
            f"{name} {use}: {what} costs {passes} network passes at latent {features}; inverted, {other}, it costs "
            f"{inverted}.",
            SlowDirectionWarning,
            stacklevel=3,
        )


def standard_normal(features: int) -> LazyDistribution:
    """Build N(0, I) over R^features, whose parameters are buffers: moved with the module and not trained."""
    return UnconditionalDistribution(DiagNormal, loc=torch.zeros(features), scale=torch.ones(features), buffer=True)


def with_affine_front(transform: LazyTransform, features: int, context: int) -> LazyTransform:
    """Prepend a learned shift and scale of every dimension, for transforms that act on a box only.

    With a context, shift and scale are functions of it.
    """
    front = start_as_identity(ElementWiseTransform(features, context))
    return LazyComposedTransform(front, transform)


def start_as_identity(transform: LazyTransform) -> LazyTransform:
    """Set the last layer of every network in a transform, and every directly learned parameter, to zero.

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
