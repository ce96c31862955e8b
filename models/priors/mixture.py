"""Gaussian mixture priors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import nn
from zuko.lazy import LazyDistribution
from zuko.mixtures import GMM

from flowvae.core.errors import check_int
from flowvae.core.parts import PriorSpec

__all__ = ["Mixture"]

WIDTH = 0.7  # initial scale of a component; the centres are spread so that the mixture has unit variance


@dataclass(frozen=True)
class Mixture(PriorSpec, name="mixture"):
    """Mixture of Gaussians with diagonal covariances: log Σ_k w_k N(z; μ_k, σ_k²) over *joint* densities.

    Its draws have no gradient, so it can be a prior but not a guide.

    Args:
        components: number of Gaussians.
    """

    title: ClassVar[str] = "mixture of diagonal Gaussians"
    paper: ClassVar[str] = "Dilokthanakul et al. 2016"

    components: int = 10

    def __post_init__(self) -> None:
        check_int(self, "components")

    def build(self, features: int, context: int = 0) -> LazyDistribution:
        """Build the mixture; it starts with equal weights, and about the mean and variance of N(0, I)."""
        mixture = GMM(features, context, components=self.components, covariance_type="diagonal")
        if context == 0:
            logits, centres, log_scales = mixture.phi
            nn.init.zeros_(logits)
            nn.init.normal_(centres, std=math.sqrt(1 - WIDTH**2) if self.components > 1 else 0.0)
            nn.init.constant_(log_scales, math.log(WIDTH if self.components > 1 else 1.0))
        return mixture
