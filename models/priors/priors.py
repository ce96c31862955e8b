"""Priors that are not flows."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import nn
from zuko.lazy import LazyDistribution
from zuko.mixtures import GMM

from flowvae.core.errors import FlowvaeError, ImproperDensityWarning, check_int, shown
from flowvae.flows.spec import Cost, standard_normal

__all__ = ["Mixture", "PriorSpec", "StandardNormal", "check_prior", "warn_if_improper"]

WIDTH = 0.7  # of a component at the start; the centres are spread so that the whole has unit variance


class PriorSpec(Protocol):
    """What a prior is: anything that builds a lazy distribution over R^features. Every flow is one."""

    title: ClassVar[str]
    paper: ClassVar[str]
    roles: ClassVar[tuple[str, ...]]
    proper: ClassVar[bool]

    def build(self, features: int, context: int = 0) -> LazyDistribution:
        """The distribution, shape (..., features)."""
        ...

    def cost(self, features: int) -> Cost:
        """Network passes."""
        ...


def check_prior(label: str, prior: object) -> None:
    """Refuse what cannot be a prior, and say why.

    Raises:
        FlowvaeError: for such an object.
    """
    if isinstance(prior, type):
        raise FlowvaeError(f"{label} = {prior.__name__}: is a class; {prior.__name__}(…) makes a prior of it.")
    if "prior" not in getattr(prior, "roles", ()):
        reason = getattr(prior, "why_not", "") or "it is not a distribution over codes"
        raise FlowvaeError(
            f"{label} = {shown(prior)}: cannot be a prior: {reason}. "
            "Use StandardNormal(), Mixture(), or a flow such as MAF()."
        )


def warn_if_improper(prior: PriorSpec, features: int) -> None:
    """Warn of a prior that is not a normalized density on all of R^features.

    The warning points at the caller of the function that calls this one.
    """
    if not prior.proper:
        warnings.warn(
            f"{type(prior).__name__} as a prior: it is not a normalized density on all of R^{features}, "
            "so its ELBO and NLL can be wrong by the mass beyond its box. MAF, NSF, BPF and the coupling flows "
            "are normalized.",
            ImproperDensityWarning,
            stacklevel=3,
        )


@dataclass(frozen=True)
class StandardNormal:
    """N(0, I), the prior of the original VAE."""

    title: ClassVar[str] = "N(0, I)"
    paper: ClassVar[str] = "Kingma & Welling 2014"
    roles: ClassVar[tuple[str, ...]] = ("prior",)
    proper: ClassVar[bool] = True

    def build(self, features: int, context: int = 0) -> LazyDistribution:
        """N(0, I); a context changes nothing."""
        return standard_normal(features)

    def cost(self, features: int) -> Cost:
        """No network."""
        return Cost(0, 0, 0)


@dataclass(frozen=True)
class Mixture:
    """Mixture of Gaussians with diagonal covariances: log Σ_k w_k N(z; μ_k, σ_k²) over *joint* densities.

    Its draws carry no gradient, so it can be a prior and not a guide.

    Args:
        components: how many Gaussians.
    """

    title: ClassVar[str] = "mixture of diagonal Gaussians"
    paper: ClassVar[str] = "Dilokthanakul et al. 2016"
    roles: ClassVar[tuple[str, ...]] = ("prior",)
    proper: ClassVar[bool] = True

    components: int = 10

    def __post_init__(self) -> None:
        check_int(self, "components")

    def build(self, features: int, context: int = 0) -> LazyDistribution:
        """The mixture, equal weights at the start, with about the mean and variance of N(0, I)."""
        mixture = GMM(features, context, components=self.components, covariance_type="diagonal")
        if context == 0:
            logits, centres, log_scales = mixture.phi
            nn.init.zeros_(logits)
            nn.init.normal_(centres, std=math.sqrt(1 - WIDTH**2) if self.components > 1 else 0.0)
            nn.init.constant_(log_scales, math.log(WIDTH if self.components > 1 else 1.0))
        return mixture

    def cost(self, features: int) -> Cost:
        """No network."""
        return Cost(0, 0, 0)
