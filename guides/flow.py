"""A Gaussian guide pushed through a normalizing flow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Generic, TypeVar

import tyro
from torch import Tensor, nn
from torch.distributions import Distribution
from zuko.distributions import NormalizingFlow
from zuko.lazy import LazyDistribution, LazyTransform

from flowvae.core.errors import FlowvaeError, check_bool, check_choice, check_int, shown
from flowvae.core.parts import Cost, GuideSpec
from flowvae.flows.spec import FlowSpec, warn_if_slow
from flowvae.guides.gaussian import BASES

__all__ = ["FlowGuide", "check_posterior"]

Family = TypeVar("Family", bound=FlowSpec)


class _FlowHead(LazyDistribution):
    def __init__(self, base: LazyDistribution, transform: LazyTransform, squeeze: nn.Module | None) -> None:
        super().__init__()
        self.base = base
        self.transform = transform
        self.squeeze = squeeze

    def forward(self, c: Tensor | None = None) -> Distribution:
        context = None if self.squeeze is None else self.squeeze(c)
        return NormalizingFlow(self.transform(context), self.base(c))


@dataclass(frozen=True)
class FlowGuide(GuideSpec, Generic[Family], wraps="flow"):
    """Flow on top of an amortized Gaussian: z_0 ~ Gaussian(x), z = T(z_0) or T(z_0; x).

    Draws take the flow's *generative* direction, so choose a family that is cheap in this direction: `IAF`, the
    coupling flows, or `Inverse` of an autoregressive prior flow.

    Args:
        flow: the family with its settings.
        base: the base distribution, "gaussian" (independent dimensions) or "full-rank".
        conditioned: whether the flow's parameters depend on x. False is a *static* flow, the same for every x, where
            only the Gaussian base depends on x; much public code has static flows.
        context: size of the context that a conditioned flow reads, computed from the encoder's features.

    Raises:
        FlowvaeError: for a flow that cannot be a posterior, or settings out of range.

    References:
        Rezende & Mohamed (2015), "Variational Inference with Normalizing Flows"; Kingma et al. (2016).
    """

    title: ClassVar[str] = "Gaussian pushed through a flow"
    paper: ClassVar[str] = "Rezende & Mohamed 2015"

    flow: Annotated[Family, tyro.conf.arg(name="")]  # its settings need no prefix on the command line
    base: str = "gaussian"
    conditioned: bool = True
    context: int = 32

    def __post_init__(self) -> None:
        check_posterior(self, self.flow)
        check_choice(self, "base", BASES)
        check_bool(self, "conditioned")
        check_int(self, "context")

    def build(self, features: int, context: int) -> LazyDistribution:
        warn_if_slow(self.flow, features, "as a guide")
        base = BASES[self.base]().build(features, context)
        if not self.conditioned:
            return _FlowHead(base, self.flow.transform(features), None)
        squeeze = nn.Sequential(nn.Linear(context, self.context), nn.ReLU())
        return _FlowHead(base, self.flow.transform(features, self.context), squeeze)

    def cost(self, features: int) -> Cost:
        return self.flow.cost(features)


def check_posterior(owner: object, flow: object) -> None:
    """Check that an object is a flow of a family that can be a posterior.

    Raises:
        FlowvaeError: if it is not, with the reason.
    """
    label = type(owner).__name__
    if not isinstance(flow, FlowSpec):
        raise FlowvaeError(f"{label}.flow = {shown(flow)}: must be a flow, such as IAF().")
    if "posterior" not in flow.roles:
        raise FlowvaeError(f"{label}.flow = {shown(flow)}: cannot be a posterior: {flow.why_not}.")
