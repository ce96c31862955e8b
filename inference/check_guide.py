"""Checks that a guide fits its model: the same latent sites, with the same supports in every run."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoContinuous, AutoDelta, AutoGuide, AutoGuideList
from pyro.poutine.util import site_is_subsample

from flowvae.core.errors import FlowvaeError
from flowvae.guides.automatic.auto_flow import AutoFlow
from flowvae.guides.automatic.prototype import check_plates
from flowvae.guides.automatic.supports import is_circular, is_fixed, same_set, support_of

__all__ = ["NarrowGuideWarning", "check_guide", "check_same_sites", "check_supports", "warn_if_narrow"]

RUNS = 5  # runs of the model to detect supports that depend on other latents
DRAWS = 200  # draws of a latent to estimate the part of its support that a guide does not cover
LEFT_OUT = 0.01  # tolerated share of uncovered draws, which rounding at the boundary may cause


class NarrowGuideWarning(UserWarning):
    """A guide covers only a part of a latent's support, so importance weights carry no information about the rest."""


def check_guide(
    model: Callable[..., Any], guide: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> None:
    """Check that a guide has the same sites and supports as the model, so that its ELBO is a bound.

    Args:
        model: Pyro model.
        guide: its guide; an automatic guide must have run once.
        args: arguments of both.
        kwargs: keyword arguments.

    Raises:
        FlowvaeError: for a latent that the guide lacks, or a site that the model lacks; for one of Pyro's automatic
            guides with subsampled local latents, circular latents, or supports that change.
    """
    check_same_sites(model, guide, args, kwargs)
    for part in _prototypes(guide):
        for name, site in part.prototype_trace.iter_stochastic_nodes():
            if isinstance(part, AutoContinuous):  # one vector for all latents
                check_plates(name, site["cond_indep_stack"])
            if is_circular(site["fn"]) and not isinstance(part, AutoDelta):  # a point estimate has no density
                raise FlowvaeError(
                    f"site {name!r}: {type(part).__name__} treats the circle as the real line, on which its density "
                    "is not normalized. Use flowvae.guides.AutoFlow."
                )
    check_supports(model, guide, args, kwargs)


def check_same_sites(
    model: Callable[..., Any], guide: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> None:
    """Check that model and guide have the same latent sites.

    Args:
        model: Pyro model.
        guide: its guide.
        args: arguments of both.
        kwargs: keyword arguments.

    Raises:
        FlowvaeError: for a latent that the guide lacks, or a site of the guide that is not a latent of the model.
    """
    with poutine.block(), torch.no_grad(), pyro.validation_enabled(False):
        drawn = poutine.trace(guide).get_trace(*args, **kwargs)
        met = poutine.trace(poutine.replay(model, trace=drawn)).get_trace(*args, **kwargs)
    latent = _latent(met)
    given = [name for name, site in _latent(drawn).items() if not site["infer"].get("is_auxiliary")]
    for name, site in latent.items():
        if name not in given:
            discrete = getattr(site["fn"], "has_enumerate_support", False)
            how = "Sum it out in the model, or use pyro.infer.TraceEnum_ELBO" if discrete else "Add it to the guide"
            raise FlowvaeError(f"the guide has no site for the latent {name!r}, so its ELBO is not a bound. {how}.")
    for name in given:
        if name not in latent:
            what = "is observed in the model" if name in met else "is not in the model"
            raise FlowvaeError(f"site {name!r} of the guide {what}; remove it from the guide.")


def check_supports(
    model: Callable[..., Any],
    guide: Callable[..., Any] | None,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> None:
    """Check that supports are the same in every draw, for methods that keep the support of their first run.

    Args:
        model: Pyro model.
        guide: one of Pyro's automatic guides that has run (others always pass); None: a sampler, such as NUTS.
        args: arguments of both.
        kwargs: keyword arguments.

    Raises:
        FlowvaeError: for a support that changes.
    """
    parts = _prototypes(guide)
    if guide is not None and not parts:
        return
    who = " and ".join(sorted({type(part).__name__ for part in parts})) or "NUTS"
    before = {
        name: support_of(site["fn"])
        for part in parts
        for name, site in part.prototype_trace.iter_stochastic_nodes()
        if _has_bounds(site["fn"])
    }
    if guide is not None and not before:
        return
    for _ in range(RUNS):
        with poutine.block(), torch.enable_grad(), pyro.validation_enabled(False):
            run = model
            if guide is not None:
                run = poutine.replay(model, trace=poutine.trace(guide).get_trace(*args, **kwargs))
            sites = _latent(poutine.trace(run).get_trace(*args, **kwargs))
        if guide is None:
            before = before or {name: support_of(site["fn"]) for name, site in sites.items() if _has_bounds(site["fn"])}
        for name, support in before.items():
            if name not in sites or not same_set(support, support_of(sites[name]["fn"])):
                raise FlowvaeError(
                    f"site {name!r}: its support depends on other variables, but {who} keeps the support of one run. "
                    "Use flowvae.guides.AutoFlow, or sample a variable on a fixed support, such as Uniform(0, 1), and "
                    "compute the rest from it with pyro.deterministic."
                )


def warn_if_narrow(
    model: Callable[..., Any], guide: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> None:
    """Warn of a guide with a smaller support than the model, such as `LogNormal` for a `Normal` latent.

    The ELBO is still a bound, but importance weights estimate the evidence of the covered part only, and no diagnostic
    of the weights shows this. It is correct if the likelihood is zero elsewhere, so this is not an error.
    """
    with poutine.block(), torch.no_grad(), pyro.validation_enabled(False):
        drawn = poutine.trace(guide).get_trace(*args, **kwargs)
        met = _latent(poutine.trace(poutine.replay(model, trace=drawn)).get_trace(*args, **kwargs))
        for name, site in _latent(drawn).items():
            if name not in met or is_circular(site["fn"]) or is_circular(met[name]["fn"]):  # any origin of an angle
                continue
            try:
                outside = ~support_of(site["fn"]).check(met[name]["fn"].sample((DRAWS,)))
            except (NotImplementedError, RuntimeError, ValueError):  # no sampler or no support
                continue
            if (share := outside.double().mean().item()) > LEFT_OUT:
                warnings.warn(
                    f"site {name!r}: {share:.0%} of the model's prior draws lie outside of the guide's support; the "
                    "weights leave this part out, and the evidence is too low unless the likelihood is zero there.",
                    NarrowGuideWarning,
                    stacklevel=5,
                )


def _latent(trace: Any) -> dict[str, Any]:
    return {name: site for name, site in trace.iter_stochastic_nodes() if not site_is_subsample(site)}


def _has_bounds(fn: Any) -> bool:
    try:
        return not is_fixed(support_of(fn))
    except NotImplementedError:  # no support is defined
        return False


def _prototypes(guide: Any) -> list[AutoGuide]:
    """Pyro's automatic guides within a guide, which keep the supports of their first run."""
    parts = guide.modules() if isinstance(guide, torch.nn.Module) else []
    return [
        part
        for part in parts
        if isinstance(part, AutoGuide)
        and not isinstance(part, AutoFlow | AutoGuideList)
        and part.prototype_trace is not None
    ]
