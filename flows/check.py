"""Numerical checks of flows, for authors of new families."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor
from zuko.lazy import LazyTransform

from flowvae.core.errors import FlowvaeError, one_line
from flowvae.core.registry import Spec
from flowvae.core.seeds import derive, seeded
from flowvae.flows.spec import FlowSpec

__all__ = ["check_flow", "check_own_flows"]

CODES = 16
PERTURBATION = 0.1  # of the parameters: an untrained flow is the identity, whose zero log-determinant hides mistakes
ESTIMATES = 400  # number of draws of a stochastic log-determinant
SIGMAS = 6  # allowed error of their mean, in standard errors
TOLERANCE = 0.01  # relative to 1 + size: mistakes are far larger, errors of float32 and of root-finding far smaller

Result = TypeVar("Result")


def check_flow(flow: FlowSpec, features: int, context: int = 0, seed: int = 0) -> None:
    """Check a flow on random codes, with randomly perturbed parameters.

    Values must be finite and of the right shape, log-determinants must be those of automatic differentiation, and the
    inverse must return to z. This finds most mistakes but proves nothing. Test separately that the density integrates
    to one and that the flow starts as the identity (as in the how-to notebook on swapping parts).

    `Experiment.run` checks user-defined flows before training.

    Args:
        flow: the family with its settings.
        features: latent size D.
        context: size of the context; 0: none.
        seed: seed of parameters and codes.

    Raises:
        FlowvaeError: for a failed check, with the rule and the method to correct.

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
                parameter.add_(PERTURBATION * torch.randn_like(parameter))
        z = torch.randn(CODES, features, requires_grad=True)
        given = torch.randn(CODES, context) if context else None
    transform = _attempt(name, "the call of its lazy transform", lambda: lazy(given))
    u, log_det = _attempt(name, "z → u with its log-determinant", lambda: transform.call_and_ladj(z))
    if u.shape != z.shape or log_det.shape != z.shape[:1]:
        raise FlowvaeError(
            f"{name}: for codes of shape {tuple(z.shape)} it gives u of shape {tuple(u.shape)} and log-determinants of "
            f"shape {tuple(log_det.shape)}; must be {tuple(z.shape)} and {(CODES,)}. An element-wise transform returns "
            "one log-derivative per element, which zuko sums; a transform of vectors returns one number per vector."
        )
    if not (u.isfinite().all() and log_det.isfinite().all()):
        raise FlowvaeError(
            f"{name}: u or its log-determinant is not finite, with parameters close to their initial values. Bound "
            "the arguments of exponentials and logarithms, with tanh or softplus."
        )
    rows = [
        torch.autograd.grad(u[:, i].sum(), z, retain_graph=True, materialize_grads=True)[0] for i in range(features)
    ]
    truth = torch.stack(rows, 1).slogdet().logabsdet
    with seeded(derive(seed, "check flow", "estimates")), torch.no_grad():
        if not torch.equal(transform.call_and_ladj(z)[1], log_det):  # an unbiased estimate: compare its mean
            estimates = torch.stack([transform.call_and_ladj(z)[1] for _ in range(ESTIMATES)])
            log_det = estimates.mean(0)
            near = (log_det - truth).abs() < SIGMAS * estimates.std(0) / ESTIMATES**0.5
            log_det = torch.where(near, truth, log_det)
    if (wrong := _worst(log_det, truth)) is not None:
        raise FlowvaeError(
            f"{name}: log-determinant {log_det[wrong].item():.4g} where automatic differentiation finds "
            f"{truth[wrong].item():.4g} nats; must be log|det ∂u/∂z|. Fix log_abs_det_jacobian."
        )
    with torch.no_grad():
        back = _attempt(name, "u → z", lambda: transform.inv(u))
    if back.shape != z.shape or (wrong := _worst(back, z)) is not None:
        raise FlowvaeError(
            f"{name}: the inverse u → z does not return z; must be a bijection. Fix _inverse, or _call if it maps "
            "two codes to one u."
        )


def check_own_flows(part: object, features: int) -> None:
    """Check every user-defined flow among the settings of a part, at a latent size of `features`.

    Raises:
        FlowvaeError: for a flow that fails a check.
    """
    for f in fields(part) if is_dataclass(part) else ():
        value = getattr(part, f.name)
        if isinstance(value, FlowSpec) and not value.wraps and not type(value).__module__.startswith("flowvae."):
            conditioned = getattr(part, "conditioned", False)
            check_flow(value, features, getattr(part, "context", 0) if conditioned else 0)
        elif is_dataclass(value) and isinstance(value, Spec):
            check_own_flows(value, features)


def _worst(values: Tensor, truth: Tensor) -> tuple[int, ...] | None:
    """Return the index of the value farthest from the truth if its error is too large, else None."""
    error = ((values - truth).abs() / (1 + truth.abs())).nan_to_num(torch.inf)
    if error.max() <= TOLERANCE:
        return None
    return tuple(int(i) for i in (error == error.max()).nonzero()[0])


def _attempt(name: str, what: str, call: Callable[[], Result]) -> Result:
    try:
        return call()
    except FlowvaeError:
        raise
    except Exception as error:  # a user's code may raise anything
        frame = traceback.extract_tb(error.__traceback__)[-1]
        missing = isinstance(error, NotImplementedError)
        raised = f"{type(error).__name__}: {one_line(error)}"
        reason = f"the method {frame.name} is missing; implement it" if missing else raised
        where = "" if missing else f" ({frame.name}, {Path(frame.filename).name}:{frame.lineno})"
        raise FlowvaeError(f"{name}, {what}: {reason}{where}.") from error
