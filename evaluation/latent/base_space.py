"""The base space of a prior, in which every flow prior is N(0, I), so that models can be compared."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal
from zuko.distributions import NormalizingFlow

from flowvae.core.errors import FlowvaeError
from flowvae.flows.pyro_adapter import PyroFlow

__all__ = ["from_base", "has_base", "is_diagonal", "to_base"]


def has_base(prior: Any) -> bool:
    """Whether the prior is N(0, I) under a known bijection: true for flows and Gaussians, false for mixtures."""
    if isinstance(prior, PyroFlow):
        return has_base(prior.flow)
    if isinstance(prior, NormalizingFlow):
        return has_base(prior.base)
    return isinstance(prior, MultivariateNormal) or is_diagonal(prior)


def to_base(prior: Any, z: Tensor) -> Tensor:
    """Map codes to base points u = T⁻¹(z), the *normalizing* direction, shape (..., latent).

    If z is drawn from the prior, u is N(0, I).

    Raises:
        FlowvaeError: if the prior is neither a flow nor a Gaussian.
    """
    if isinstance(prior, PyroFlow):
        return to_base(prior.flow, z)
    if isinstance(prior, NormalizingFlow):
        return to_base(prior.base, prior.transform(z))
    if isinstance(prior, MultivariateNormal):
        centred = (z - prior.loc).unsqueeze(-1)
        return torch.linalg.solve_triangular(prior.scale_tril, centred, upper=False).squeeze(-1)
    _check(prior)
    return (z - prior.base_dist.loc) / prior.base_dist.scale


def from_base(prior: Any, u: Tensor) -> Tensor:
    """Map base points to codes z = T(u), the *generative* direction, shape (..., latent).

    Raises:
        FlowvaeError: if the prior is neither a flow nor a Gaussian.
    """
    if isinstance(prior, PyroFlow):
        return from_base(prior.flow, u)
    if isinstance(prior, NormalizingFlow):
        return prior.transform.inv(from_base(prior.base, u))
    if isinstance(prior, MultivariateNormal):
        return prior.loc + (prior.scale_tril @ u.unsqueeze(-1)).squeeze(-1)
    _check(prior)
    return prior.base_dist.loc + prior.base_dist.scale * u


def is_diagonal(distribution: Any) -> bool:
    """Whether a distribution is a Gaussian with independent dimensions."""
    return isinstance(distribution, Independent) and isinstance(distribution.base_dist, Normal)


def _check(prior: Any) -> None:
    if not is_diagonal(prior):
        raise FlowvaeError(
            f"prior {type(prior).__name__}: has no base space; use a flow or a Gaussian, such as maf or normal."
        )
