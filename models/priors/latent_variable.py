"""Priors with latent variables: two-level VAEs, and the second VAE of Dai & Wipf."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Size
from zuko.lazy import LazyDistribution

from flowvae.core.errors import FlowvaeError, check_choice, check_int, shown
from flowvae.core.parts import (
    Condition,
    GuideSpec,
    LikelihoodSpec,
    NetworkSpec,
    PriorSpec,
    Units,
    as_likelihood,
)
from flowvae.core.registry import find
from flowvae.models.priors.checks import check_inner_prior
from flowvae.models.priors.second_level import SecondLevel
from flowvae.models.priors.standard_normal import StandardNormal
from flowvae.models.priors.top_down import TopDownLevel
from flowvae.models.vae import VAE
from flowvae.networks import MLP, check_network

__all__ = ["LatentVariablePrior"]

LEVELS = {"bottom-up": SecondLevel, "top-down": TopDownLevel}


@dataclass(frozen=True)
class LatentVariablePrior(PriorSpec, name="latent-variable"):
    """A VAE of the codes as the prior, p(z) = ∫ p(z | z2) p(z2) dz2.

    Trained jointly it is a two-level VAE; fitted in a second stage it is the second VAE of Dai & Wipf. `prior` may
    again have latent variables. log p(z) is an integral without a closed form: measures of log-weights (ELBO, NLL,
    IWAE, AIS) treat z2 as one more latent variable; others raise an error.

    There are two kinds of guide. "bottom-up" is q(z | x) q(z2 | z). "top-down" is that of the ladder VAE: z2 is drawn
    first, given the mean of the encoder's Gaussian q̂(z | x), and then z from the product of two Gaussians,
    q(z | z2, x) ∝ q̂(z | x) p(z | z2). It has no further parameters. Both Gaussians must have independent dimensions.
    q(z | x) is then an integral too: measures that need its density raise an error, and it can only be trained jointly.

    Args:
        latent: size of z2.
        prior: p(z2).
        decoder: network from z2 to the parameters of p(z | z2).
        likelihood: p(z | z2), of real numbers; "gaussian" learns one noise scale.
        encoder: network from z to the features that the guide head reads.
        guide: q(z2 | z).
        direction: direction of the guide, "bottom-up" or "top-down".

    Raises:
        FlowvaeError: for parts that cannot be combined in this way, or settings out of range.

    References:
        Sønderby et al. (2016), "Ladder Variational Autoencoders"; Dai & Wipf (2019), "Diagnosing and Enhancing VAE
        Models".
    """

    title: ClassVar[str] = "a VAE of the codes: two levels"
    paper: ClassVar[str] = "Dai & Wipf 2019"
    tractable: ClassVar[bool] = False

    latent: int = 8
    prior: PriorSpec = field(default_factory=StandardNormal)
    decoder: NetworkSpec = field(default_factory=MLP)
    likelihood: LikelihoodSpec = field(default_factory=lambda: find("likelihood", "gaussian").default)
    encoder: NetworkSpec = field(default_factory=MLP)
    guide: GuideSpec = field(default_factory=lambda: find("guide", "gaussian").default)
    direction: str = "bottom-up"

    def __post_init__(self) -> None:
        check_int(self, "latent")
        check_choice(self, "direction", LEVELS)
        check_inner_prior("LatentVariablePrior.prior", self.prior)
        likelihood = as_likelihood("LatentVariablePrior.likelihood", self.likelihood)
        object.__setattr__(self, "likelihood", likelihood)
        if self.likelihood.discrete or self.likelihood.violations(torch.tensor([-2.0, 2.0])).any():
            raise FlowvaeError(
                f"LatentVariablePrior.likelihood = {self.likelihood}: codes are real numbers; use one such as gaussian."
            )
        for name, kind in (("decoder", NetworkSpec), ("encoder", NetworkSpec), ("guide", GuideSpec)):
            if not isinstance(getattr(self, name), kind):
                value = shown(getattr(self, name))
                raise FlowvaeError(f"LatentVariablePrior.{name} = {value}: must be a {kind.__name__} object.")
        if self.guide.follows_model:
            raise FlowvaeError(
                f"LatentVariablePrior.guide = {shown(self.guide)}: needs the density of a whole model; use another "
                "guide, such as Gaussian()."
            )
        object.__setattr__(self, "proper", self.prior.proper)
        if self.direction == "top-down":
            object.__setattr__(self, "why_not_second_stage", "its top-down guide takes part in q(z | x)")

    def build(self, features: int, context: int = 0) -> LazyDistribution:
        shape, above = Size((features,)), Size((self.latent,))
        condition = Condition(prior=self.prior.conditional) if context else None
        prior = self.prior.build(self.latent, context if self.prior.conditional else 0)
        if hasattr(prior, "bind"):
            raise FlowvaeError(
                f"LatentVariablePrior.prior = {shown(self.prior)}: has a bind method, which needs a guide and data of "
                "its codes; only the prior of the whole model has them. Use another prior."
            )
        decoder = self.decoder.build(above, self.likelihood.parameter_shape(shape), context)
        units = Units(torch.zeros(features), torch.ones(features))
        vae = VAE(prior, decoder, self.likelihood.build(shape, units), condition)
        encoder = self.encoder.build(shape, None, context)
        width = math.prod(check_network("LatentVariablePrior.encoder", encoder, shape, None, context))
        return LEVELS[self.direction](vae, encoder, self.guide.build(self.latent, width), features)
