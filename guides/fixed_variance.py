"""A Gaussian guide whose variance is a constant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pyro.distributions as dist
from torch import Tensor, nn
from zuko.lazy import LazyDistribution

from flowvae.core.errors import check_number
from flowvae.core.parts import GuideSpec

__all__ = ["FixedVariance"]


class _FixedVarianceHead(LazyDistribution):
    def __init__(self, features: int, context: int, scale: float) -> None:
        super().__init__()
        self.loc = nn.Linear(context, features)
        self.scale = scale

    def forward(self, c: Tensor | None = None) -> dist.TorchDistribution:
        return dist.Normal(self.loc(c), self.scale).to_event(1)


@dataclass(frozen=True)
class FixedVariance(GuideSpec, name="fixed-variance"):
    """Gaussian guide q(z | x) = N(μ(x), s² I) with a constant s, for joint training with a learned prior.

    The entropy of q is a constant, (D/2) log(2πe s²) nats, so that the KL term is −E_q[log p(z)] minus this constant.
    The entropy cannot diverge as with σ(x) → 0, and the prior is trained on codes with the same noise everywhere.

    s is in units of the code, whose means are not normalized. Under N(0, I) a dimension of unit variance carries
    ½ log(1/s²) nats, and an unused one still costs ½ (s² − 1 − log s²) nats. A flow prior adapts to the spread of the
    means instead, so that s only sets the units of the code.

    Args:
        scale: s. The paper uses 0.5.

    Raises:
        FlowvaeError: for a scale that is not positive.

    References:
        Zhao et al. (2025), "SimFlow: Simplified and End-to-End Training of Latent Normalizing Flows".
    """

    title: ClassVar[str] = "Gaussian with a constant variance"
    paper: ClassVar[str] = "Zhao et al. 2025"

    scale: float = 0.5

    def __post_init__(self) -> None:
        check_number(self, "scale")

    def build(self, features: int, context: int) -> LazyDistribution:
        return _FixedVarianceHead(features, context, self.scale)
