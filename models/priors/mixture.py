"""Gaussian mixture priors."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

from torch import nn
from zuko.lazy import LazyDistribution
from zuko.mixtures import GMM

from flowvae.core.errors import check_choice, check_int
from flowvae.core.parts import PriorSpec

__all__ = ["WIDTH", "Mixture"]

WIDTH = 0.7  # initial scale of a component; the centres are spread so that the mixture has unit variance
COVARIANCES = ("diagonal", "full")


@dataclass(frozen=True)
class Mixture(PriorSpec, name="mixture"):
    """Mixture of Gaussians: log Σ_k w_k N(z; μ_k, Σ_k) over *joint* densities.

    Its draws have no gradient, so it can be a prior but not a guide. Full covariances take K D(D+1)/2 parameters and
    K D² operations per density, instead of K D. Given a condition, weights, centres and scales are the outputs of a
    network that reads it.

    Args:
        components: K, number of Gaussians.
        covariance: "diagonal", or "full" by a Cholesky factor, which starts diagonal.

    Raises:
        FlowvaeError: for settings out of range.
    """

    title: ClassVar[str] = "mixture of Gaussians with diagonal or full covariances"
    paper: ClassVar[str] = "Dilokthanakul et al. 2016"

    components: int = 10
    covariance: str = field(default="diagonal", metadata={"omit_default": True})

    def __post_init__(self) -> None:
        check_int(self, "components")
        check_choice(self, "covariance", COVARIANCES)

    def build(self, features: int, context: int = 0) -> LazyDistribution:
        """Build the mixture.

        It starts with equal weights, centres drawn from N(0, 1 − 0.7²) and scales 0.7, which gives it about the mean
        and variance of N(0, I); one component starts as N(0, I). With a context, the network's usual initialization is
        kept.
        """
        mixture = GMM(features, context, components=self.components, covariance_type=self.covariance)
        if context == 0:
            logits, centres, log_scales, *off_diagonal = mixture.phi
            nn.init.zeros_(logits)
            nn.init.normal_(centres, std=math.sqrt(1 - WIDTH**2) if self.components > 1 else 0.0)
            nn.init.constant_(log_scales, math.log(WIDTH if self.components > 1 else 1.0))
            for lower in off_diagonal:
                nn.init.zeros_(lower)
        return mixture
