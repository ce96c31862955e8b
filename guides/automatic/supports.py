"""Supports of latent sites, and bijections from the reals onto them.

| support | distributions, such as | in a flow guide |
| --- | --- | --- |
| real, real vector | Normal, StudentT, MultivariateNormal, GaussianHMM | identity |
| positive, nonnegative, bounded below or above | Gamma, LogNormal, Pareto | exp, shifted |
| unit interval, interval | Beta, Uniform, AffineBeta | sigmoid, scaled |
| simplex | Dirichlet, LogisticNormal, RelaxedOneHotCategorical | stick breaking |
| ordered, positive ordered vector | user-defined | cumulative sums of exponentials |
| Cholesky factor of a correlation matrix | LKJCholesky | rows of partial correlations |
| stack, cat | user-defined | part by part |
| circle | VonMises, SineBivariateVonMises, SineSkewed | sigmoid onto (-π, π), the range of Pyro's draws |
| mixture of one family | MixtureSameFamily | as for its components, if these share their support |
| change of variables | TransformedDistribution | as for its last transform, if domains and codomains match |
| sphere | ProjectedNormal, VonMises3D | refused: no bijection from the reals |
| positive definite, lower Cholesky | Wishart | refused: torch has no bijection for it |
| correlation matrix | LKJ | refused: rounding puts its values off the diagonal of ones; use LKJCholesky |
| integers, booleans, finite sets | Categorical, Poisson | refused: no density |
| a point | Delta, Empirical | refused: no density |
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch.distributions import Independent, MixtureSameFamily, Transform, TransformedDistribution, biject_to
from torch.distributions.constraints import Constraint
from torch.distributions.transforms import ComposeTransform, IndependentTransform

from flowvae.core.errors import FlowvaeError, shown

__all__ = ["bijection", "is_circular", "is_fixed", "same_kind", "same_set", "support_of"]

CIRCULAR = (dist.VonMises, torch.distributions.VonMises, dist.SineBivariateVonMises, dist.SineSkewed)
POINTS = (dist.Delta, dist.Empirical)
WRAPPERS = (dist.MaskedDistribution, dist.ExpandedDistribution)
CIRCLE = constraints.interval(-math.pi, math.pi)
SHARED = [CIRCLE, *(value for value in vars(constraints).values() if isinstance(value, Constraint))]

# sets that differ by points of measure zero
_SAME = {
    constraints.greater_than_eq: constraints.greater_than,
    constraints.half_open_interval: constraints.interval,
    type(constraints.softplus_positive): constraints.greater_than,
    type(constraints.positive): constraints.greater_than,
    type(constraints.nonnegative): constraints.greater_than,
}


def support_of(fn: Any) -> Constraint:
    """Find the set over which a distribution's density integrates to one.

    It is the distribution's `support`, except for circular distributions: these declare all reals as their support, on
    which their density is periodic, but draw from [-π, π). An interval without an upper bound becomes a half-line.
    """
    if isinstance(fn, Independent):
        return _independent(support_of(fn.base_dist), fn.reinterpreted_batch_ndims)
    if isinstance(fn, WRAPPERS):
        return support_of(fn.base_dist)
    if isinstance(fn, CIRCULAR):
        return _independent(CIRCLE, len(fn.event_shape))
    if isinstance(fn, MixtureSameFamily) and is_fixed(components := support_of(fn.component_distribution)):
        return components
    support = fn.support
    if isinstance(support, constraints.interval) and (torch.as_tensor(support.upper_bound) == math.inf).all():
        return constraints.greater_than(support.lower_bound)
    return support


def bijection(name: str, fn: Any) -> Transform:
    """Find the bijection from the reals to the support of a latent site.

    Args:
        name: name of the site.
        fn: its distribution.

    Raises:
        FlowvaeError: for a distribution without a density or without such a bijection; the message has an alternative.
    """
    plain = _plain(fn)
    kind = type(plain).__name__
    if isinstance(plain, POINTS):
        raise FlowvaeError(f"site {name!r}: {kind} has no density; use pyro.deterministic for what is computed.")
    if isinstance(plain, TransformedDistribution):
        _check_chain(name, plain)
    try:
        support = support_of(fn)
        if support.is_discrete:
            raise FlowvaeError(
                f"site {name!r}: {kind} is discrete, and a flow needs a density. Sum it out in the model, for instance "
                "with MixtureSameFamily, or hide it with pyro.poutine.block and use pyro.infer.TraceEnum_ELBO."
            )
        if support is constraints.corr_matrix:
            raise NotImplementedError
        return biject_to(support)
    except NotImplementedError:
        raise FlowvaeError(
            f"site {name!r}: there is no bijection from the reals to the values of {kind}. {_remedy(plain)}"
        ) from None


def is_circular(fn: Any) -> bool:
    """Whether a distribution's values are angles, with a periodic density."""
    return isinstance(_plain(fn), CIRCULAR)


def is_fixed(support: Constraint) -> bool:
    """Whether a support has no parameters, such as bounds, and is thus the same in every run of the model."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return any(support is shared for shared in SHARED)


def same_kind(one: Constraint, other: Constraint) -> bool:
    """Whether two supports are of the same kind: their bijections differ in bounds only."""
    return [type(part) for part in _nested(one)] == [type(part) for part in _nested(other)]


def same_set(one: Any, other: Any) -> bool:
    """Whether two supports are the same, bounds included, up to points of measure zero."""
    while isinstance(one, constraints.independent):
        one = one.base_constraint
    while isinstance(other, constraints.independent):
        other = other.base_constraint
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same_set, one, other))
    if not isinstance(one, Constraint):
        return bool((torch.as_tensor(one) == torch.as_tensor(other)).all())
    if _SAME.get(type(one), type(one)) is not _SAME.get(type(other), type(other)):
        return False
    return all(same_set(value, vars(other)[name]) for name, value in vars(one).items())


def _nested(support: Any) -> Iterator[Constraint]:
    yield support
    for part in [getattr(support, "base_constraint", None), *getattr(support, "cseq", ())]:
        if part is not None:
            yield from _nested(part)


def _independent(support: Constraint, dimensions: int) -> Constraint:
    return constraints.independent(support, dimensions) if dimensions else support


def _plain(fn: Any) -> Any:
    while isinstance(fn, (Independent, *WRAPPERS)):
        fn = fn.base_dist
    return fn


def _remedy(fn: Any) -> str:
    if isinstance(fn, dist.ProjectedNormal):
        return "Sample v from Normal(concentration, 1).to_event(1) and use pyro.deterministic for v / |v|."
    if isinstance(fn, dist.VonMises3D):
        return (
            "Sample v from Normal(0, 1) in three dimensions, use pyro.deterministic for u = v / |v|, and add "
            "pyro.factor with log_prob(u) + log(4π)."
        )
    if isinstance(fn, MixtureSameFamily):
        return "Its components have different supports: sample a variable of a common support and rescale it."
    if isinstance(fn, dist.LKJ):
        return "Sample L from LKJCholesky and use pyro.deterministic for L Lᵀ."
    if isinstance(fn, dist.Wishart):
        return "Sample standard deviations and an LKJCholesky factor, and multiply them with pyro.deterministic."
    return "Sample variables of a simpler support and map them with pyro.deterministic."


def _check_chain(name: str, fn: Any) -> None:
    """Raise an error for a TransformedDistribution whose last transform does not determine its support.

    The codomain of an affine transform, for example, is all reals, even if it shifts an Exponential.
    """
    if type(fn).support is not TransformedDistribution.support:  # the class defines its own
        return
    support, base = support_of(fn.base_dist), type(_plain(fn.base_dist)).__name__
    for transform in _parts(fn.transforms):
        if not same_set(support, transform.domain):
            raise FlowvaeError(
                f"site {name!r}: the support of TransformedDistribution is unknown: {type(transform).__name__} is for "
                f"{shown(transform.domain)} and is given {shown(support)}. Sample {base} and use pyro.deterministic "
                "for what is computed from it."
            )
        support = transform.codomain


def _parts(transforms: Any) -> Iterator[Any]:
    for transform in transforms:
        if isinstance(transform, ComposeTransform):
            yield from _parts(transform.parts)
        elif isinstance(transform, IndependentTransform):
            yield from _parts([transform.base_transform])
        else:
            yield transform
