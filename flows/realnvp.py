"""Affine coupling flow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import zuko
from zuko.lazy import LazyTransform

from flowvae.flows.spec import Cost, NetworkFlowSpec, start_as_identity

__all__ = ["RealNVP"]


@dataclass(frozen=True)
class RealNVP(NetworkFlowSpec):
    """Affine coupling flow: every second dimension scales and shifts the others, then the roles swap.

    References:
        Dinh, Sohl-Dickstein & Bengio (2017), "Density estimation using Real NVP".

    >>> RealNVP(transforms=3).cost(features=8)
    Cost(density=3, sample=3, sample_and_density=6)
    """

    title: ClassVar[str] = "affine coupling flow"
    paper: ClassVar[str] = "Dinh et al. 2017"

    transforms: int = 4

    def transform(self, features: int, context: int = 0) -> LazyTransform:
        self.check_features(features)
        flow = zuko.flows.RealNVP(features, context, transforms=self.transforms, hidden_features=self.hidden_features)
        return start_as_identity(flow.transform)

    def cost(self, features: int) -> Cost:
        steps = self.transforms
        return Cost(density=steps, sample=steps, sample_and_density=2 * steps)
