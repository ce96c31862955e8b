"""Bernstein polynomial flow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import zuko
from zuko.lazy import LazyTransform

from flowvae.core.errors import check_int
from flowvae.core.parts import Cost
from flowvae.flows.spec import NetworkFlowSpec, start_as_identity

__all__ = ["BPF"]


@dataclass(frozen=True)
class BPF(NetworkFlowSpec, name="bpf"):
    """Autoregressive flow whose univariate maps are Bernstein polynomials on [-5, 5], linear outside.

    The inverse is a bisection inside [-5, 5] and exact outside, so both directions are valid on all of R^D. Outside,
    each transform is offset from the polynomial's end by 1e-5 (zuko's margin), also before training.

    Args:
        degree: degree of the polynomials.

    References:
        Sick et al. (2021), "Deep transformation models".
    """

    title: ClassVar[str] = "Bernstein polynomial flow"
    paper: ClassVar[str] = "Sick et al. 2021"

    degree: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        check_int(self, "degree", least=2)

    def transform(self, features: int, context: int = 0) -> LazyTransform:
        self.check_features(features)
        flow = zuko.flows.BPF(
            features, context, degree=self.degree, transforms=self.transforms, hidden_features=self.hidden_features
        )
        return start_as_identity(flow.transform)

    def cost(self, features: int) -> Cost:
        steps = self.transforms
        return Cost(density=steps, sample=steps * features, sample_and_density=steps * (features + 1))
