"""Initial values of a model's latent sites, from one run of the model."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer.autoguide import init_to_mean, init_to_median, init_to_sample, init_to_uniform
from pyro.infer.autoguide.guides import prototype_hide_fn
from pyro.infer.autoguide.initialization import InitMessenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from flowvae.core.errors import FlowvaeError, shown
from flowvae.guides.automatic.supports import bijection, support_of

__all__ = ["check_plates", "read_prototype"]

BY_CHANCE = (init_to_median, init_to_mean, init_to_sample, init_to_uniform)  # random initializations


def read_prototype(
    model: Callable[..., Any],
    init_loc_fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    encoded: Collection[str] = (),
) -> Any:
    """Trace the latent sites of a model at their initial values.

    The model may fail at an extreme prior draw, such as a scale that underflows to zero. A random initialization then
    falls back to zero in the unconstrained space.

    Args:
        model: Pyro model.
        init_loc_fn: one of Pyro's initialization functions, such as `init_to_median`.
        args: the model's arguments.
        kwargs: its keyword arguments.
        encoded: names of the plates whose latent sites are drawn given an encoder; these may subsample.

    Raises:
        FlowvaeError: for a latent site that a flow guide cannot draw, or an initial value outside of its support.
    """
    try:
        trace = _trace(model, init_loc_fn, args, kwargs, encoded)
        if init_loc_fn not in BY_CHANCE or _is_possible(model, trace, args, kwargs):
            return trace
    except FlowvaeError:
        raise
    except ValueError:
        if init_loc_fn not in BY_CHANCE:
            raise
    return _trace(model, _middle, args, kwargs, encoded)


def _is_possible(model: Callable[..., Any], start: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether the model's log-density has a finite gradient at the initial values."""
    values = {name: site["value"].detach().clone().requires_grad_() for name, site in start.iter_stochastic_nodes()}
    with poutine.block(), torch.enable_grad(), pyro.validation_enabled(False):
        trace = poutine.trace(poutine.condition(model, data=values)).get_trace(*args, **kwargs)
        total = torch.as_tensor(trace.log_prob_sum())
        if not total.requires_grad:
            return True
        gradients = torch.autograd.grad(total, list(values.values()), allow_unused=True)
    return all(gradient is None or bool(gradient.isfinite().all()) for gradient in gradients)


@torch.no_grad()
def _trace(
    model: Callable[..., Any],
    init_loc_fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    encoded: Collection[str],
) -> Any:
    latents = poutine.block(_Start(init_loc_fn)(model), prototype_hide_fn)
    trace = poutine.block(poutine.trace(latents).get_trace)(*args, **kwargs)
    for name, site in trace.iter_stochastic_nodes():
        check_plates(name, site["cond_indep_stack"], encoded)
    return trace


class _Start(InitMessenger):
    """Messenger that initializes latent sites, and raises an error for those that a flow cannot draw."""

    def _pyro_sample(self, msg: Any) -> None:
        if msg["value"] is not None or site_is_subsample(msg):
            return
        name = msg["name"]
        transform = bijection(name, msg["fn"])
        try:
            super()._pyro_sample(msg)
        except NotImplementedError:  # a distribution without a sampler
            msg["value"] = _middle(msg)
        start: Any = msg["value"]
        support = support_of(msg["fn"])
        if not (support.check(start).all() and transform.inv(start).isfinite().all()):
            if self.init_fn not in BY_CHANCE and self.init_fn is not _middle:
                raise FlowvaeError(
                    f"site {name!r}: its initial value {shown(start.tolist())} is outside of its support "
                    f"{shown(support)}, or at its edge; give another init_loc_fn."
                )
            msg["value"] = _middle(msg)


def _middle(site: Any) -> Tensor:
    """Map zero in the unconstrained space to the support."""
    fn = site["fn"]
    try:
        like = fn.sample()
    except NotImplementedError:
        like = torch.zeros(())
    transform = bijection(site["name"], fn)
    return transform(like.new_zeros(transform.inverse_shape(fn.shape())))


def check_plates(name: str, plates: Any, encoded: Collection[str] = ()) -> None:
    """Raise an error for a latent site in a plate that a guide over one vector of fixed length does not support.

    Args:
        name: name of the site.
        plates: the site's `cond_indep_stack`.
        encoded: names of the plates that may subsample, because their latent sites are drawn given an encoder.

    Raises:
        FlowvaeError: for a plate that is a loop, or subsamples its data.
    """
    for frame in plates:
        if not frame.vectorized:
            raise FlowvaeError(
                f"site {name!r}: in the loop of plate {frame.name!r}; write `with pyro.plate(...)` instead of `for`."
            )
        if frame.name not in encoded and frame.full_size not in (None, frame.size):
            raise FlowvaeError(
                f"site {name!r}: local to plate {frame.name!r}, which subsamples {frame.size} of {frame.full_size} "
                f"data points, so the guide would have latent numbers for {frame.size} of them only. Use "
                f"AutoFlow(model, flow, encoder={{{frame.name!r}: MLP()}}), which draws it given the data of the "
                "plate, or give the plate no subsample_size."
            )
