"""Continuous normalizing flow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import zuko
from torch import nn
from torch.distributions import Transform
from zuko.lazy import LazyTransform

from flowvae.core.errors import check_widths
from flowvae.core.parts import Cost
from flowvae.flows.spec import FlowSpec

__all__ = ["CNF"]

LEAST = 7  # evaluations of the network that the adaptive solver makes for the identity


@dataclass(frozen=True)
class CNF(FlowSpec, name="cnf"):
    r"""Continuous flow: du/dt = f(u, t) from z at t = 0 to u at t = 1, log-determinant ∫ tr ∂f/∂u dt.

    The trace is exact. The solver is adaptive, so the cost grows during training; `cost` is that of the untrained
    flow. The solver chooses its steps for the whole batch: a log-density has an error of about 0.01 nats, and varies by
    as much with the other codes in the batch.

    Args:
        hidden_features: widths of the hidden layers of f.

    References:
        Chen et al. (2018), "Neural Ordinary Differential Equations"; Grathwohl et al. (2019), "FFJORD".
    """

    title: ClassVar[str] = "continuous normalizing flow"
    paper: ClassVar[str] = "Grathwohl et al. 2019"
    twice_differentiable: ClassVar[bool] = False  # the solver's custom gradient is not differentiable

    hidden_features: tuple[int, ...] = (32, 32)

    def __post_init__(self) -> None:
        check_widths(self, "hidden_features")

    def transform(self, features: int, context: int = 0) -> LazyTransform:
        self.check_features(features)
        flow = zuko.flows.CNF(features, context, hidden_features=self.hidden_features)
        last = flow.transform.ode[-1]
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        return _WithGradient(flow.transform)

    def cost(self, features: int) -> Cost:
        return Cost(LEAST, LEAST, LEAST)


class _WithGradient(LazyTransform):
    """A CNF whose parameters have gradients in eval mode too, where zuko does not pass them to the solver."""

    def __init__(self, transform: LazyTransform) -> None:
        super().__init__()
        self.transform = transform

    def forward(self, c: object = None) -> Transform:
        training = self.transform.training
        self.transform.training = True
        try:
            return self.transform(c)
        finally:
            self.transform.training = training
