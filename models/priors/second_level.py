"""The level above a code: a VAE of the codes as their prior, with the guide of its latent variable."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import pyro
import torch
from pyro import poutine
from pyro.distributions import TorchDistribution, constraints
from torch import Size, Tensor, nn
from zuko.lazy import LazyDistribution

from flowvae.core.errors import IntractableError
from flowvae.flows.pyro_adapter import to_pyro
from flowvae.models.vae import VAE
from flowvae.networks import fold

__all__ = ["MarginalPrior", "SecondLevel", "above"]


class SecondLevel(LazyDistribution):
    """A VAE of codes as a prior, with the guide of its latent variable.

    Args:
        vae: p(z2) and p(z | z2).
        encoder: a network z → features, read by the head.
        head: q(z2 | features).
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
        self.vae.names = (above(name), name)
        return self.vae.latent_sites

    def statements(self, name: str, c: Tensor | None = None) -> Tensor:
        """Sample z2 ~ p(z2), then z ~ p(z | z2) at the site of that name."""
        self.vae.names = (above(name), name)
        return self.vae.statements(None, c)

    def guide_statements(self, name: str, z: Tensor, c: Tensor | None = None) -> None:
        """Sample z2 ~ q(z2 | z), and the levels above it."""
        self.guide_from(above(name), self.posterior(z, c), c)

    def posterior(self, z: Tensor, c: Tensor | None = None) -> TorchDistribution:
        """Compute the distribution of z2 that the guide's networks give for codes z, (..., D)."""
        return to_pyro(self.head(fold(self.encoder, z, 1, *(() if c is None else (c,)))))

    def guide_from(self, name: str, q: TorchDistribution, c: Tensor | None = None) -> Tensor:
        """Sample this level's variable at the site of that name from q, and the levels above it before or after."""
        prior = self.vae.prior
        before, after = getattr(prior, "guide_above", None), getattr(prior, "guide_statements", None)
        if before is not None:
            q = before(name, q, c)
        z2: Tensor = pyro.sample(name, q)
        if before is None and after is not None:
            after(name, z2, c)
        return z2

    def forward(self, c: Tensor | None = None) -> MarginalPrior:
        return MarginalPrior(self, c)


class MarginalPrior(TorchDistribution):
    """Distribution p(z) of a prior with latent variables: it can be sampled, but its density is an integral.

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
            IntractableError: always.
        """
        raise IntractableError(
            "log p(z) of a prior with latent variables is an integral without a closed form; use measures of "
            "log-weights (likelihood, iwae, bdmc), or a prior with a density."
        )


def above(name: str) -> str:
    """Name the site one level above: z2 for z, z3 for z2."""
    stem = name.rstrip("0123456789")
    return f"{stem}{int(name[len(stem) :] or 1) + 1}"
