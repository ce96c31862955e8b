"""Checks of the settings of priors."""

from __future__ import annotations

import warnings

from flowvae.core.errors import FlowvaeError, ImproperDensityWarning, shown
from flowvae.core.parts import PriorSpec

__all__ = ["check_inner_prior", "check_prior", "warn_if_improper"]


def check_prior(label: str, prior: object) -> None:
    """Check that an object can be a prior; `label` names it in error messages.

    Raises:
        FlowvaeError: if it cannot, with the reason.
    """
    if isinstance(prior, type):
        raise FlowvaeError(f"{label} = {prior.__name__}: is a class; must be a prior, such as {prior.__name__}(…).")
    reason = prior.refuses("prior") if isinstance(prior, PriorSpec) else "it is not a PriorSpec or FlowSpec"
    if reason:
        raise FlowvaeError(
            f"{label} = {shown(prior)}: cannot be a prior: {reason}. "
            "Use StandardNormal(), Mixture(), or a flow such as MAF()."
        )


def check_inner_prior(label: str, prior: object) -> None:
    """Check that an object can be a prior inside another one, which trains it by its density or its ELBO.

    Raises:
        FlowvaeError: if it cannot, with the reason.
    """
    check_prior(label, prior)
    if why := getattr(prior, "why_not_joint", ""):
        raise FlowvaeError(
            f"{label} = {shown(prior)}: has its own loss, so it can only be the prior of the whole model: {why}. "
            "Use another prior, such as StandardNormal() or MAF()."
        )


def warn_if_improper(prior: PriorSpec, features: int) -> None:
    """Warn about a prior that is not a normalized density on all of R^features.

    The warning is attributed to the caller of the function that calls this one.
    """
    if not prior.proper:
        warnings.warn(
            f"{type(prior).__name__} as a prior: it is not a normalized density on all of R^{features}, "
            "so its ELBO and NLL can be wrong by the mass outside its box. MAF, NSF, BPF and the coupling flows "
            "are normalized.",
            ImproperDensityWarning,
            stacklevel=3,
        )
