"""The top-down guide of the ladder VAE, which draws the level above first and then the code."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pyro import poutine
from pyro.distributions import Independent, Normal, TorchDistribution, constraints
from torch import Size, Tensor

from flowvae.core.errors import FlowvaeError, IntractableError
from flowvae.core.seeds import seeded
from flowvae.models.priors.second_level import SecondLevel, above

DRAWS = 100  # of z2 for the mean of z
NO_DENSITY = (
    "q(z | x) of a top-down guide is an integral over z2 without a closed form; use measures of log-weights "
    '(likelihood, iwae), or direction="bottom-up".'
)

__all__ = ["TopDownLevel", "TopDownPosterior"]


class TopDownLevel(SecondLevel):
    """A VAE of codes as a prior, whose guide draws the latent variable before the code.

    With q̂(z | x) = N(m, diag s²), z2 is drawn from q(z2 | m), and z from the Gaussian that is proportional to
    q̂(z | x) p(z | z2): the precisions add, and the means are weighted by them. If p(x | z) is Gaussian in z with a
    diagonal precision, the exact posterior has this form.

    References:
        Sønderby et al. (2016), "Ladder Variational Autoencoders".
    """

    def guide_above(self, name: str, q: TorchDistribution, c: Tensor | None = None) -> TorchDistribution:
        """Sample z2 given q̂(z | x), where `name` is the site of z; return q(z | z2, x).

        Raises:
            FlowvaeError: if q̂(z | x) or p(z | z2) is not a Gaussian with independent dimensions.
        """
        m, s = _moments("the guide of the level below", q)
        z2 = self.guide_from(above(name), self.posterior(m, c), c)
        loc, scale = _moments("p(z | z2)", self.vae.decode(z2, c))
        precision, own = s**-2 + scale**-2, s**-2
        mean = (own * m + scale**-2 * loc) / precision
        return Normal(mean, precision.rsqrt()).to_event(1)

    def marginal(self, name: str, q: TorchDistribution, c: Tensor | None = None) -> TopDownPosterior:
        """Return q(z | x), with z2 integrated out, for an encoder that gives q̂(z | x)."""
        return TopDownPosterior(self, name, q, c)


class TopDownPosterior(TorchDistribution):
    """Distribution q(z | x) of a top-down guide: it can be sampled, but its density is an integral.

    Args:
        level: the level above.
        name: site of the code.
        q: q̂(z | x), whose batch shape is that of the data.
        c: condition, shape (N, C); None: no condition.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, level: TopDownLevel, name: str, q: TorchDistribution, c: Tensor | None) -> None:
        self.level, self.name, self.q, self.c = level, name, q, c
        super().__init__(q.batch_shape, q.event_shape, validate_args=False)

    def rsample(self, sample_shape: Any = Size()) -> Tensor:  # noqa: B008
        """Draw codes of shape sample_shape + batch shape + (D,)."""
        shape = self._extended_shape(Size(sample_shape))[:-1]
        q = self.q.expand(shape)
        c = None if self.c is None else self.c.expand(*shape, self.c.shape[-1])
        with poutine.block():
            z: Tensor = self.level.guide_above(self.name, q, c).rsample()
        return z

    @property
    def mean(self) -> Tensor:
        """Mean of z: the average of E[z | z2, x] over 100 draws of z2, the same in every call."""
        shape = Size((DRAWS, *self.batch_shape))
        c = None if self.c is None else self.c.expand(*shape, self.c.shape[-1])
        with seeded(0), poutine.block():
            found: Tensor = self.level.guide_above(self.name, self.q.expand(shape), c).mean
        return found.mean(0)

    @property
    def variance(self) -> Tensor:
        """Raise an error: the variance is an integral over z2.

        Raises:
            IntractableError: always.
        """
        raise IntractableError(NO_DENSITY)

    def expand(self, batch_shape: Any, _instance: object = None) -> TopDownPosterior:
        """Expand the batch shape."""
        shape = Size(batch_shape)
        c = None if self.c is None else self.c.expand(*shape, self.c.shape[-1])
        return TopDownPosterior(self.level, self.name, self.q.expand(shape), c)

    def log_prob(self, value: Tensor) -> Tensor:
        """Raise an error: the density is an integral over z2.

        Raises:
            IntractableError: always.
        """
        raise IntractableError(NO_DENSITY)


def _moments(what: str, q: Any) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of a Gaussian with independent dimensions."""
    inner = q.base_dist if isinstance(q, Independent | torch.distributions.Independent) else q
    if not isinstance(inner, torch.distributions.Normal):
        raise FlowvaeError(
            f'LatentVariablePrior.direction = "top-down" with {type(q).__name__} as {what}: needs Gaussians with '
            'independent dimensions; use guide gaussian and likelihood gaussian, or direction="bottom-up".'
        )
    return inner.loc, inner.scale
