"""Priors with latent variables of their own: two levels, and the second VAE of Dai & Wipf."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pyro
import torch
from pyro import poutine
from pyro.distributions import TorchDistribution, constraints
from torch import Size, Tensor, nn
from zuko.lazy import LazyDistribution

from flowvae.core.errors import FlowvaeError, check_int, shown
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
from flowvae.flows.pyro_adapter import to_pyro
from flowvae.models.priors.checks import check_prior
from flowvae.models.priors.standard_normal import StandardNormal
from flowvae.models.vae import VAE
from flowvae.networks import MLP, check_network, fold

__all__ = ["LatentVariablePrior", "MarginalPrior", "SecondLevel"]


@dataclass(frozen=True)
class LatentVariablePrior(PriorSpec, name="latent-variable"):
    """p(z) = ∫ p(z given z2) p(z2) dz2: a VAE of the codes.

    Trained jointly it is a two-level VAE, with the guide q(z given x) q(z2 given z); fitted in a second stage it is the
    second VAE of Dai & Wipf. `prior` may again have latent variables. log p(z) is an integral without a closed form:
    measures of log-weights (ELBO, NLL, IWAE, AIS) treat z2 as one more latent variable; others raise an error.

    Args:
        latent: size of z2.
        prior: p(z2).
        decoder: network from z2 to the parameters of p(z given z2).
        likelihood: p(z given z2), of real numbers; "gaussian" learns one noise scale.
        encoder: network from z to the features that the guide head reads.
        guide: q(z2 given z).

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

    def __post_init__(self) -> None:
        check_int(self, "latent")
        check_prior("LatentVariablePrior.prior", self.prior)
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
                f"LatentVariablePrior.guide = {shown(self.guide)}: follows the density of a whole model; use another "
                "guide, such as Gaussian()."
            )
        object.__setattr__(self, "proper", self.prior.proper)

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
        return SecondLevel(vae, encoder, self.guide.build(self.latent, width), features)


class SecondLevel(LazyDistribution):
    """A VAE of codes as a prior, with the guide of its latent variable.

    Args:
        vae: p(z2) and p(z given z2).
        encoder: a network z → features, read by the head.
        head: q(z2 given features).
        features: size of z.
    """

    def __init__(self, vae: VAE, encoder: nn.Module, head: LazyDistribution, features: int) -> None:
        super().__init__()
        self.vae = vae
        self.encoder = encoder
        self.head = head
        self.size = features

    def latent_sites(self, name: str) -> tuple[str, ...]:
        """List the names of the latent sites above the site of that name, the topmost first."""
        self.vae.names = (_above(name), name)
        return self.vae.latent_sites

    def statements(self, name: str, c: Tensor | None = None) -> Tensor:
        """Sample z2 ~ p(z2), then z ~ p(z given z2) at the site of that name."""
        self.vae.names = (_above(name), name)
        return self.vae.statements(None, c)

    def guide_statements(self, name: str, z: Tensor, c: Tensor | None = None) -> None:
        """Sample z2 ~ q(z2 given z)."""
        features = fold(self.encoder, z, 1, *(() if c is None else (c,)))
        z2 = pyro.sample(_above(name), to_pyro(self.head(features)))
        further = getattr(self.vae.prior, "guide_statements", None)
        if further is not None:
            further(_above(name), z2, c)

    def forward(self, c: Tensor | None = None) -> MarginalPrior:
        return MarginalPrior(self, c)


class MarginalPrior(TorchDistribution):
    """p(z) of a prior with latent variables: it can be sampled, but its density is an integral.

    Args:
        level: the VAE of the codes.
        c: condition, shape (N, C), which gives the distribution its batch shape; None: no condition.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector
    has_rsample = False

    def __init__(self, level: SecondLevel, c: Tensor | None = None) -> None:
        self.level = level
        self.c = c
        batch = Size() if c is None else c.shape[:-1]
        super().__init__(batch, Size((level.size,)), validate_args=False)

    @torch.no_grad()
    def sample(self, sample_shape: Any = Size()) -> Tensor:  # noqa: B008
        """Draw codes of shape sample_shape + batch shape + (D,), without a gradient."""
        shape = self._extended_shape(Size(sample_shape))[:-1]
        count = math.prod(shape)
        c = None if self.c is None else self.c.expand(*shape, self.c.shape[-1]).reshape(count, -1)
        with poutine.block(), pyro.plate("draws of the prior", count):
            z = self.level.statements("z", c)
        return z.reshape(*shape, self.level.size)

    def expand(self, batch_shape: Any, _instance: object = None) -> MarginalPrior:
        """Expand the batch shape."""
        new = MarginalPrior(self.level, self.c)
        TorchDistribution.__init__(new, Size(batch_shape), self.event_shape, validate_args=False)
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Raise an error: the density of a prior with latent variables is an integral.

        Raises:
            FlowvaeError: always.
        """
        raise FlowvaeError(
            "log p(z) of a prior with latent variables is an integral without a closed form; use measures of "
            "log-weights (likelihood, iwae, bdmc), or a prior with a density."
        )


def _above(name: str) -> str:
    """Name the site one level above: z2 for z, z3 for z2."""
    stem = name.rstrip("0123456789")
    return f"{stem}{int(name[len(stem) :] or 1) + 1}"
