"""The ELBO with path-derivative gradients, whose variance vanishes for an exact guide."""

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

    The gradient of log q_φ(z(φ)) with respect to φ has a part through z and a part at fixed z, the score. The score is
    zero in expectation, so the gradient without it is still unbiased. If q is the posterior, the remaining part is zero
    for every single draw. The loss itself is that of `Trace_ELBO`.

    The guide is scored a second time, at the same draws with fixed parameters. This costs a log-density without cached
    values: one more pass for a coupling flow, but D passes for an inverse autoregressive one.

    Raises:
        FlowvaeError: if a latent variable of the guide is not reparametrized; use `Trace_ELBO` there.

    References:
        Roeder, Wu & Duvenaud (2017), "Sticking the Landing".
    """

    def _get_trace(self, model: Callable[..., Any], guide: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        model_trace, guide_trace = super()._get_trace(model, guide, args, kwargs)
        drawn = guide_trace.copy()
        for name, site in guide_trace.iter_stochastic_nodes():
            # a new tensor with the same value, for which distributions have no cached density
            drawn.nodes[name] = {**site, "value": site["value"].clone()}
        with _fixed(guide_trace), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*was not registered in the param store")
            scored = poutine.trace(poutine.replay(guide, trace=drawn)).get_trace(*args, **kwargs)
            scored.compute_score_parts()  # inside the block, since the networks of a flow run when it is scored
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
    """Disable gradients to the parameters that the trace declares, within the block."""
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
