"""Gaussianization flow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import zuko
from zuko.lazy import LazyTransform

from flowvae.core.errors import MOST_LAYERS, check_int, check_widths
from flowvae.core.parts import Cost
from flowvae.flows.spec import FlowSpec

__all__ = ["GF"]


@dataclass(frozen=True)
class GF(FlowSpec, name="gf"):
    """Gaussianization flow: each dimension is mapped by Φ⁻¹ of a mixture of Gaussian CDFs, then all are rotated.

    u stays within ±4.9 for all z, and distant codes have no finite gradient. It suits standardized data, but not
    the codes of an encoder during training.

    Args:
        transforms: number of pairs of an element-wise map and a rotation.
        components: number of Gaussians of each element-wise map.
        hidden_features: widths of the hidden layers of the network that reads a context; not used without a
            context.

    Raises:
        FlowvaeError: for settings out of range.

    References:
        Meng, Song, Song & Ermon (2020), "Gaussianization Flows".
    """

    title: ClassVar[str] = "Gaussianization flow"
    paper: ClassVar[str] = "Meng et al. 2020"
    roles: ClassVar[tuple[str, ...]] = ("prior",)
    why_not: ClassVar[str] = "its draws come from a bisection on [-10, 10], slow and wrong outside"
    proper: ClassVar[bool] = False

    transforms: int = 3
    components: int = 8
    hidden_features: tuple[int, ...] = (32,)

    def __post_init__(self) -> None:
        check_int(self, "transforms", most=MOST_LAYERS)
        check_int(self, "components")
        check_widths(self, "hidden_features")

    @property
    def starts_as_identity(self) -> bool:
        return False

    def transform(self, features: int, context: int = 0) -> LazyTransform:
        self.check_features(features)
        network: dict[str, Any] = {"hidden_features": self.hidden_features} if context else {}
        return zuko.flows.GF(
            features, context, transforms=self.transforms, components=self.components, **network
        ).transform

    def cost(self, features: int) -> Cost:
        steps = self.transforms
        return Cost(density=steps, sample=steps, sample_and_density=2 * steps)
