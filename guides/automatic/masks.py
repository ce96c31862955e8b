"""Masks of Pyro sites: the numbers that enter the log-density, and checks of masked models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import Independent, MaskedDistribution
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from flowvae.core.errors import FlowvaeError
from flowvae.networks import in_eval_mode

__all__ = ["check_sites", "counted", "counted_data"]


def counted(node: Mapping[str, Any]) -> Tensor:
    """Compute a boolean mask of the numbers that enter a traced site's log-density, of the shape of the value.

    It combines the masks of `poutine.mask`, of `fn.mask(...)`, and of distributions inside a `to_event`.

    Raises:
        FlowvaeError: for a mask that does not fit the site.
    """
    return _counted(node).expand(node["fn"].shape())


def counted_data(node: Mapping[str, Any]) -> Tensor:
    """Compute a boolean mask of the data points that enter a site's log-density, in part or whole (batch shape)."""
    keep, event = _counted(node), node["fn"].event_dim
    if event:
        keep = keep.reshape((1,) * max(0, event - keep.dim()) + keep.shape).flatten(-event).any(-1)
    return keep.expand(node["fn"].batch_shape)


def _counted(node: Mapping[str, Any]) -> Tensor:
    """Compute the mask of `counted`, before it is expanded to the shape of the value."""
    fn, shape = node["fn"], node["fn"].shape()
    keep = _numbers(node["mask"], fn.event_dim).to(node["value"].device)
    while isinstance(fn, Independent | MaskedDistribution):
        if isinstance(fn, MaskedDistribution):
            keep = keep & _numbers(fn._mask, fn.event_dim)
        fn = fn.base_dist
    if keep.dim() > len(shape) or any(a not in (1, b) for a, b in zip(keep.shape[::-1], shape[::-1], strict=False)):
        raise FlowvaeError(
            f"site {node['name']!r}: a mask of shape {tuple(node['mask'].shape)} does not fit its batch shape "
            f"{tuple(node['fn'].batch_shape)}; give a mask that broadcasts to it."
        )
    return keep


def _numbers(mask: bool | Tensor | None, event_dim: int) -> Tensor:
    value = torch.as_tensor(True if mask is None else mask)
    return value.reshape(value.shape + (1,) * event_dim) if value.dim() else value


@in_eval_mode
def check_sites(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    guide: Callable[..., Any] | None = None,
    gradients: bool = False,
    nodes: Mapping[str, Any] | None = None,
) -> None:
    """Raise an error for a model whose masks or missing data make inference meaningless.

    A latent number that is masked in the model has a flat prior, which is valid if the data inform it. If nothing
    depends on it (such as the numbers of `x_unobserved` that `obs_mask` replaces by observed ones) but a guide gives
    it a density, the ELBO has no upper bound and importance weights are meaningless.

    Args:
        model: Pyro model.
        args: arguments of the model and of the guide.
        kwargs: their keyword arguments.
        guide: Pyro guide; None: all latent numbers have a density.
        gradients: whether gradients are needed; they are NaN where data are NaN, masked or not.
        nodes: nodes of a trace of the model, if there is one already.

    Raises:
        FlowvaeError: for latents that are masked only in the model or only in the guide; for observed NaN.
    """
    drawn = None if guide is None else _traced(guide, args, kwargs)
    if nodes is None:
        # at the guide's draws, because the model may fail at prior draws
        nodes = _traced(model if drawn is None else poutine.replay(model, trace=drawn), args, kwargs).nodes
    sites = _sites(nodes)
    for name, node in sites.items():
        if node["is_observed"]:
            _refuse_nan(name, node, gradients)
    latent = {name: node for name, node in sites.items() if not node["is_observed"]}
    masked = {name: ~counted(node) for name, node in latent.items()}
    if drawn is not None:
        for name, node in _sites(drawn.nodes).items():
            if name not in latent or node["fn"].shape() != masked[name].shape:
                continue
            alone = int((~counted(node) & ~masked[name]).sum())
            if alone:
                raise FlowvaeError(
                    f"latent {name!r}: the guide masks {alone} number(s) that the model does not; mask the same ones "
                    "in both."
                )
            masked[name] = masked[name] & counted(node)
    masked = {name: which for name, which in masked.items() if which.any()}
    for name, which in _without_effect(model, args, kwargs, latent, masked).items():
        if which.any():
            raise FlowvaeError(
                f"latent {name!r}: {int(which.sum())} of its {which.numel()} numbers are masked in the model and "
                f"nothing else depends on them, so they have no posterior. {_remedy(name)}"
            )


def _traced(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    with poutine.block(), torch.no_grad(), pyro.validation_enabled(False):
        return poutine.trace(function).get_trace(*args, **kwargs)


def _sites(nodes: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: node
        for name, node in nodes.items()
        if node["type"] == "sample" and not site_is_subsample(node) and not node["infer"].get("_deterministic")
    }


def _refuse_nan(name: str, node: Mapping[str, Any], gradients: bool) -> None:
    value = node["value"]
    missing = int(value.isnan().sum()) if isinstance(value, Tensor) and value.is_floating_point() else 0
    if not missing:
        return
    what = f"site {name!r}: {missing} of its {value.numel()} observed numbers are NaN"
    with torch.no_grad(), pyro.validation_enabled(False):
        log_prob = torch.where(counted_data(node), node["fn"].log_prob(value), 0.0)
    if log_prob.isnan().any():
        raise FlowvaeError(f"{what} and not masked; leave them out of the data, or mask them by poutine.mask.")
    if gradients:
        raise FlowvaeError(
            f"{what}; they are masked, but gradients there are still NaN. Replace them by numbers in the "
            "distribution's support, for example with torch.nan_to_num."
        )


def _without_effect(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    latent: Mapping[str, Any],
    masked: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Find the masked numbers that do not affect the model's log-density, by its gradient at a draw."""
    if not masked:
        return {}
    values = {name: node["value"].detach().clone() for name, node in latent.items()}
    leaves = {name: values[name].requires_grad_() for name in masked if values[name].is_floating_point()}
    with poutine.block(), torch.enable_grad(), pyro.validation_enabled(False):
        trace = poutine.trace(poutine.condition(model, data=values)).get_trace(*args, **kwargs)
        total = torch.as_tensor(trace.log_prob_sum())
        found: tuple[Tensor | None, ...] = (None,) * len(leaves)
        if leaves and total.requires_grad:
            found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    gradients = dict(zip(leaves, found, strict=True))
    return {
        name: which if (gradient := gradients.get(name)) is None else which & (gradient == 0)
        for name, which in masked.items()
    }


def _remedy(name: str) -> str:
    if name.endswith("_unobserved"):
        site = name.removesuffix("_unobserved")
        return (
            f"Give {site!r} no obs_mask: observe it under poutine.mask (or `fn.mask(mask)`), which leaves out the "
            "missing data, and draw these with flowvae.evaluation.predict."
        )
    return "Mask the data alone, take these numbers out of the model, or write a guide that masks them too."
