"""Whether a flow is what it says it is: for whoever writes one."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor
from zuko.lazy import LazyTransform

from flowvae.core.errors import FlowvaeError, one_line
from flowvae.core.seeds import derive, seeded
from flowvae.flows.spec import FlowSpec

__all__ = ["check_flow"]

CODES = 16
SHAKE = 0.1  # an untrained flow is the identity, whose log-determinant is zero: it shows no slip
ESTIMATES = 400  # of a log-determinant that is drawn
SIGMAS = 6  # of their mean, which it may be off
TOLERANCE = 0.01  # relative to 1 + size; slips are far larger, single precision and root-finding far smaller

Result = TypeVar("Result")


def check_flow(flow: FlowSpec, features: int, context: int = 0, seed: int = 0) -> None:
    """Try a flow on random codes, with its parameters moved off their start.

    Its values must be finite and of the right shape, its log-determinants those of automatic differentiation, and its
    inverse must lead back. That finds most slips and proves nothing: whether the density integrates to one, and
    whether the flow starts as the identity, is for tests of your own (notebook 7 has them).

    `Experiment.run` does this for a flow of your own before it trains.

    Args:
        flow: the family with its settings.
        features: latent size D.
        context: numbers that condition it; 0: none.
        seed: of parameters and codes.

    Raises:
        FlowvaeError: for what is wrong, with the rule and the method to look at.

    >>> from flowvae.flows import MAF
    >>> check_flow(MAF(), features=3)
    """
    name = type(flow).__name__
    with seeded(derive(seed, "check flow")):
        lazy = _attempt(name, "transform(features, context)", lambda: flow.transform(features, context))
        if not isinstance(lazy, LazyTransform):
            raise FlowvaeError(
                f"{name}.transform: returns {type(lazy).__name__}; must be a zuko LazyTransform, a module whose call "
                "gives the transform. Wrap a fixed one in zuko.lazy.UnconditionalTransform."
            )
        with torch.no_grad():
            for parameter in lazy.parameters():
                parameter.add_(SHAKE * torch.randn_like(parameter))
        z = torch.randn(CODES, features, requires_grad=True)
        given = torch.randn(CODES, context) if context else None
    transform = _attempt(name, "the call of its lazy transform", lambda: lazy(given))
    u, log_det = _attempt(name, "z → u with its log-determinant", lambda: transform.call_and_ladj(z))
    if u.shape != z.shape or log_det.shape != z.shape[:1]:
        raise FlowvaeError(
            f"{name}: for codes of shape {tuple(z.shape)} it gives u of shape {tuple(u.shape)} and log-determinants of "
            f"shape {tuple(log_det.shape)}; must be {tuple(z.shape)} and {(CODES,)}. A transform of single numbers "
            "gives one log-derivative a number, and zuko sums them; one of vectors gives one number a vector."
        )
    if not (u.isfinite().all() and log_det.isfinite().all()):
        raise FlowvaeError(
            f"{name}: u or its log-determinant is not finite, with parameters only a little off their start. Bound "
            "what goes into an exponential or a logarithm, with tanh or softplus."
        )
    rows = [
        torch.autograd.grad(u[:, i].sum(), z, retain_graph=True, materialize_grads=True)[0] for i in range(features)
    ]
    truth = torch.stack(rows, 1).slogdet().logabsdet
    with seeded(derive(seed, "check flow", "estimates")), torch.no_grad():
        if not torch.equal(transform.call_and_ladj(z)[1], log_det):  # it is an estimate, right in the mean
            estimates = torch.stack([transform.call_and_ladj(z)[1] for _ in range(ESTIMATES)])
            log_det = estimates.mean(0)
            near = (log_det - truth).abs() < SIGMAS * estimates.std(0) / ESTIMATES**0.5
            log_det = torch.where(near, truth, log_det)
    if (wrong := _worst(log_det, truth)) is not None:
        raise FlowvaeError(
            f"{name}: log-determinant {log_det[wrong].item():.4g} where automatic differentiation finds "
            f"{truth[wrong].item():.4g} nats; must be log|det ∂u/∂z|. Mend log_abs_det_jacobian."
        )
    with torch.no_grad():
        back = _attempt(name, "u → z", lambda: transform.inv(u))
    if back.shape != z.shape or (wrong := _worst(back, z)) is not None:
        raise FlowvaeError(
            f"{name}: the way back u → z does not return to z; must be a bijection. Mend _inverse, or the map, if two "
            "codes share one u."
        )


def _worst(values: Tensor, truth: Tensor) -> tuple[int, ...] | None:
    """Where values are farthest from the truth, if that is too far."""
    error = ((values - truth).abs() / (1 + truth.abs())).nan_to_num(torch.inf)
    if error.max() <= TOLERANCE:
        return None
    return tuple(int(i) for i in (error == error.max()).nonzero()[0])


def _attempt(name: str, what: str, call: Callable[[], Result]) -> Result:
    try:
        return call()
    except FlowvaeError:
        raise
    except Exception as error:  # whatever a user's code may raise
        place = traceback.extract_tb(error.__traceback__)[-1]
        missing = isinstance(error, NotImplementedError)
        raised = f"{type(error).__name__}: {one_line(error)}"
        said = f"the method {place.name} is missing; write it" if missing else raised
        where = "" if missing else f" ({place.name}, {Path(place.filename).name}:{place.lineno})"
        raise FlowvaeError(f"{name}, {what}: {said}{where}.") from error
