"""The standard normal prior."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from zuko.lazy import LazyDistribution

from flowvae.core.parts import PriorSpec
from flowvae.flows.spec import standard_normal

__all__ = ["StandardNormal"]


@dataclass(frozen=True)
class StandardNormal(PriorSpec, name="normal"):
    """N(0, I), the prior of the original VAE."""

    title: ClassVar[str] = "N(0, I)"
    paper: ClassVar[str] = "Kingma & Welling 2014"
    conditional: ClassVar[bool] = False
    trainable: ClassVar[bool] = False

    def build(self, features: int, context: int = 0) -> LazyDistribution:
        return standard_normal(features)
