"""The ELBO with path-derivative gradients, whose noise vanishes where the guide is exact."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pyro import poutine
from pyro.distributions.util import is_identically_zero
from torch import Tensor

from flowvae.core.errors import FlowvaeError
from flowvae.inference.optim import FiniteTraceELBO

__all__ = ["PathTraceELBO"]


class PathTraceELBO(FiniteTraceELBO):
    """`Trace_ELBO` that differentiates log q(z) through the draw z alone, "sticking the landing".

    The gradient of log q_φ(z(φ)) with respect to φ has a part through z and a part at fixed z, the score. The
    score is zero in expectation, so leaving it out keeps the gradient unbiased; and where q is the posterior, what is
    left is zero for every single draw. The loss itself is that of `Trace_ELBO`.

    The guide is scored a second time, at the same draws and with its parameters held fixed. That costs a
    log-density of foreign values: one pass more of a coupling flow, but D passes of an inverse autoregressive one.

    Raises:
        FlowvaeError: if a latent variable of the guide is not reparametrized; use `Trace_ELBO` there.

    References:
        Roeder, Wu & Duvenaud (2017), "Sticking the Landing".
    """

    def _get_trace(self, model: Callable[..., Any], guide: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        model_trace, guide_trace = super()._get_trace(model, guide, args, kwargs)
        drawn = guide_trace.copy()
        for name, site in guide_trace.iter_stochastic_nodes():
            # another tensor of the same value: distributions that remember a draw's density do not know it
            drawn.nodes[name] = {**site, "value": site["value"].clone()}
        with _fixed(guide_trace), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*was not registered in the param store")
            scored = poutine.trace(poutine.replay(guide, trace=drawn)).get_trace(*args, **kwargs)
            scored.compute_score_parts()  # within: a flow's networks run when it is scored
        for name, site in guide_trace.nodes.items():
            if site["type"] == "sample":
                if not is_identically_zero(site["score_parts"].score_function):
                    raise FlowvaeError(
                        f"site {name!r} of the guide is not reparametrized, so it has no path derivative; "
                        "use pyro.infer.Trace_ELBO."
                    )
                site["score_parts"] = scored.nodes[name]["score_parts"]
        return model_trace, guide_trace


@contextmanager
def _fixed(trace: Any) -> Iterator[None]:
    """Within the block, no gradient goes to the parameters that the trace declares."""
    parameters: list[Tensor] = []
    for site in trace.nodes.values():
        if site["type"] == "param":
            parameter = site["value"].unconstrained()
            if parameter.requires_grad:
                parameters.append(parameter)
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
