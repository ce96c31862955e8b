"""Flow priors with a mixture base."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

from zuko.lazy import Flow, LazyDistribution

from flowvae.core.errors import FlowvaeError, shown
from flowvae.core.parts import Cost, PriorSpec
from flowvae.flows import MAF, FlowSpec
from flowvae.models.priors.checks import check_prior
from flowvae.models.priors.mixture import Mixture

__all__ = ["MixtureFlow"]


@dataclass(frozen=True)
class MixtureFlow(PriorSpec, name="mixture-flow"):
    """A flow over a learned Gaussian mixture: log p(z) = log Σ_k w_k N(T⁻¹(z); μ_k, Σ_k) + log|det ∂T⁻¹/∂z|.

    The base has separate modes, which a flow over N(0, I) must connect by thin bridges of density; the flow deforms
    them. If the flow starts as the identity, the prior starts as the mixture. The network passes are those of the flow.
    Draws have no gradient.

    Args:
        flow: T, any family that can be a prior.
        mixture: the base.

    Raises:
        FlowvaeError: for a flow that cannot be a prior, or a base that is not a `Mixture`.

    References:
        Izmailov et al. (2020), "Semi-Supervised Learning with Normalizing Flows".
    """

    title: ClassVar[str] = "a flow over a mixture of Gaussians"
    paper: ClassVar[str] = "Izmailov et al. 2020"

    flow: FlowSpec = field(default_factory=MAF)
    mixture: Mixture = field(default_factory=Mixture)

    def __post_init__(self) -> None:
        if not isinstance(self.flow, FlowSpec):
            raise FlowvaeError(f"MixtureFlow.flow = {shown(self.flow)}: must be a flow, such as MAF().")
        check_prior("MixtureFlow.flow", self.flow)
        if not isinstance(self.mixture, Mixture):
            raise FlowvaeError(f"MixtureFlow.mixture = {shown(self.mixture)}: must be a Mixture object.")
        for name in ("proper", "conditional", "shaped", "twice_differentiable"):  # as of the flow
            object.__setattr__(self, name, getattr(self.flow, name))

    def build(self, features: int, context: int = 0) -> LazyDistribution:
        size = features if isinstance(features, int) else math.prod(features)
        return Flow(self.flow.transform(features, context), self.mixture.build(size, context))

    def cost(self, features: int) -> Cost:
        return self.flow.cost(features)
