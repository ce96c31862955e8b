"""Whether a guide fits its model: the same latent sites, on the supports that the model gives them in every run."""

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

RUNS = 5  # of the model, in which a support that depends on other latents shows
DRAWS = 200  # of a latent, by which the part of its support that a guide leaves out shows
LEFT_OUT = 0.01  # share of them; fewer may be at the edge by rounding


class NarrowGuideWarning(UserWarning):
    """A guide draws from a part of a latent's support only, so that importance weights say nothing of the rest."""


def check_guide(
    model: Callable[..., Any], guide: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> None:
    """Refuse a guide whose ELBO would be no bound: with other sites than the model, or on other supports.

    Args:
        model: Pyro model.
        guide: its guide; an automatic one that has run.
        args: arguments of both.
        kwargs: keyword arguments.

    Raises:
        FlowvaeError: for a latent that the guide lacks, or a site that the model lacks; for an automatic guide of
            Pyro's with local latents of a part of the data, circular latents, or supports that change.
    """
    check_same_sites(model, guide, args, kwargs)
    for part in _prototypes(guide):
        for name, site in part.prototype_trace.iter_stochastic_nodes():
            if isinstance(part, AutoContinuous):  # one vector for all latents
                check_plates(name, site["cond_indep_stack"])
            if is_circular(site["fn"]) and not isinstance(part, AutoDelta):  # a point has no density
                raise FlowvaeError(
                    f"site {name!r}: {type(part).__name__} takes the circle for the real line, on which its density is "
                    "not one. Use flowvae.guides.AutoFlow."
                )
    check_supports(model, guide, args, kwargs)


def check_same_sites(
    model: Callable[..., Any], guide: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> None:
    """Refuse a guide that has no site for a latent of the model, or a site that is no latent of the model.

    Args:
        model: Pyro model.
        guide: its guide.
        args: arguments of both.
        kwargs: keyword arguments.

    Raises:
        FlowvaeError: for such a site.
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
            raise FlowvaeError(f"the guide has no site for the latent {name!r}, so that no bound is right. {how}.")
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
    """Refuse supports that change from draw to draw, for those that take the support of one run for all of them.

    Args:
        model: Pyro model.
        guide: one of Pyro's automatic guides that has run (any other passes); none: a sampler, such as NUTS.
        args: arguments of both.
        kwargs: keyword arguments.

    Raises:
        FlowvaeError: if there are any.
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
                    f"site {name!r}: its support changes with other variables, and {who} takes the support of one run "
                    "for all. Use flowvae.guides.AutoFlow, or sample a variable on a support that stays the same, such "
                    "as Uniform(0, 1), and use pyro.deterministic for what is computed from it."
                )


def warn_if_narrow(
    model: Callable[..., Any], guide: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> None:
    """Warn of a guide such as `LogNormal` for a latent that is `Normal` in the model.

    An ELBO stays a bound there, but importance weights estimate the evidence of the guide's part alone, which no
    diagnostic of the weights shows. It is right where the likelihood is zero elsewhere, so this is no error.
    """
    with poutine.block(), torch.no_grad(), pyro.validation_enabled(False):
        drawn = poutine.trace(guide).get_trace(*args, **kwargs)
        met = _latent(poutine.trace(poutine.replay(model, trace=drawn)).get_trace(*args, **kwargs))
        for name, site in _latent(drawn).items():
            if name not in met or is_circular(site["fn"]) or is_circular(met[name]["fn"]):  # a turn begins anywhere
                continue
            try:
                outside = ~support_of(site["fn"]).check(met[name]["fn"].sample((DRAWS,)))
            except (NotImplementedError, RuntimeError, ValueError):  # no sampler, or no support
                continue
            if (share := outside.double().mean().item()) > LEFT_OUT:
                warnings.warn(
                    f"site {name!r}: {share:.0%} of the model's prior draws lie outside of the guide's support; the "
                    "weights leave that part out, and the evidence is too low unless the likelihood is zero there.",
                    NarrowGuideWarning,
                    stacklevel=5,
                )


def _latent(trace: Any) -> dict[str, Any]:
    return {name: site for name, site in trace.iter_stochastic_nodes() if not site_is_subsample(site)}


def _has_bounds(fn: Any) -> bool:
    try:
        return not is_fixed(support_of(fn))
    except NotImplementedError:  # it has none
        return False


def _prototypes(guide: Any) -> list[AutoGuide]:
    """The automatic guides of Pyro's in a guide that take the supports of their first run for those of all."""
    parts = guide.modules() if isinstance(guide, torch.nn.Module) else []
    return [
        part
        for part in parts
        if isinstance(part, AutoGuide)
        and not isinstance(part, AutoFlow | AutoGuideList)
        and part.prototype_trace is not None
    ]
