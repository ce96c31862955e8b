"""A flow that does not read the condition, over a Gaussian base that does."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Size, Tensor, nn
from zuko.distributions import DiagNormal, NormalizingFlow
from zuko.lazy import LazyDistribution, LazyTransform

from flowvae.core.errors import FlowvaeError, check_widths, shown
from flowvae.core.parts import Cost, PriorSpec
from flowvae.flows import RealNVP
from flowvae.flows.spec import FlowSpec
from flowvae.networks import MLP

__all__ = ["ConditionalBase"]

LARGEST = 20.0  # bound of |log σ(c)|, far from usual values: beyond it, outlying conditions would overflow


@dataclass(frozen=True)
class ConditionalBase(PriorSpec, name="conditional-base"):
    r"""Flow over a conditional Gaussian: log p(z | c) = log N(f(z); μ(c), diag σ²(c)) + log|det ∂f/∂z|.

    This is the prior of VITS. The flow f, in its normalizing direction, is the same for every condition; only its base
    reads c. Without a condition, μ and σ are learned numbers. It starts as N(0, I) if the flow starts as the identity.
    Costs are those of the flow.

    Args:
        flow: the family of f.
        hidden_features: widths of the hidden layers of the network c → (μ, log σ).

    Raises:
        FlowvaeError: for a flow that cannot be a prior or needs a code with a shape, or widths out of range.

    References:
        Kim, Kong & Son (2021), "Conditional Variational Autoencoder with Adversarial Learning for End-to-End
        Text-to-Speech".
    """

    title: ClassVar[str] = "flow over a Gaussian that reads the condition"
    paper: ClassVar[str] = "Kim et al. 2021"

    flow: FlowSpec = field(default_factory=RealNVP)
    hidden_features: tuple[int, ...] = (32,)

    def __post_init__(self) -> None:
        if not isinstance(self.flow, FlowSpec):
            raise FlowvaeError(f"ConditionalBase.flow = {shown(self.flow)}: must be a flow, such as RealNVP().")
        if reason := self.flow.refuses("prior"):
            raise FlowvaeError(f"ConditionalBase.flow = {shown(self.flow)}: cannot be a prior: {reason}.")
        if self.flow.shaped:
            raise FlowvaeError(
                f"ConditionalBase.flow = {shown(self.flow)}: needs a code with a shape; use a flow of vectors, such as "
                "RealNVP()."
            )
        check_widths(self, "hidden_features")
        object.__setattr__(self, "proper", self.flow.proper)
        object.__setattr__(self, "twice_differentiable", self.flow.twice_differentiable)

    def build(self, features: int, context: int = 0) -> LazyDistribution:
        return _ConditionalBaseFlow(self.flow.transform(features), _Base(features, context, self.hidden_features))

    def cost(self, features: int) -> Cost:
        return self.flow.cost(features)


class _Base(LazyDistribution):
    """N(μ(c), diag σ²(c)), or N(μ, diag σ²) without a condition; starts as N(0, I)."""

    def __init__(self, features: int, context: int, hidden_features: tuple[int, ...]) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(2 * features))
        self.network: nn.Module | None = None
        if context:
            hidden = MLP(hidden_features).build(Size((context,)))
            last = nn.Linear(hidden_features[-1], 2 * features, bias=False)
            nn.init.zeros_(last.weight)
            self.network = nn.Sequential(hidden, last)

    def forward(self, c: Tensor | None = None) -> DiagNormal:
        out = self.bias if self.network is None else self.bias + self.network(c)
        loc, log_scale = out.chunk(2, -1)
        return DiagNormal(loc, log_scale.clamp(-LARGEST, LARGEST).exp())


class _ConditionalBaseFlow(LazyDistribution):
    def __init__(self, transform: LazyTransform, base: _Base) -> None:
        super().__init__()
        self.transform = transform
        self.base = base

    def forward(self, c: Tensor | None = None) -> NormalizingFlow:
        return NormalizingFlow(self.transform(), self.base(c))
