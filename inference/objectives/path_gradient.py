"""The ELBO with path-derivative gradients, whose variance vanishes for an exact guide."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pyro import poutine
from pyro.distributions.util import is_identically_zero
from pyro.infer.autoguide import AutoNormalizingFlow
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from flowvae.core.errors import FlowvaeError
from flowvae.core.parts import Cost, GuideSpec, PriorSpec
from flowvae.inference.compile.compiled import CompiledTrace_ELBO
from flowvae.inference.objectives.spec import ObjectiveSpec, warn_if_slow_score
from flowvae.inference.optim import FiniteTraceELBO

__all__ = ["CompiledPathTraceELBO", "PathTraceELBO", "StickingTheLanding", "has_cheap_path", "path_cost"]

CHEAP = 3  # path gradients are cheap up to this ratio of the passes of a second score to those of a draw
FEW = 64  # up to this many passes, a second score is always cheap


class _PathDerivative(FiniteTraceELBO):
    """The trace of the guide with score parts at fixed parameters, for any of the ELBOs below."""

    def _get_trace(self, model: Callable[..., Any], guide: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        points = _SamePoints()
        guide = points(guide)
        model_trace, guide_trace = super()._get_trace(model, guide, args, kwargs)
        if not torch.is_grad_enabled():
            return model_trace, guide_trace
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


class _SamePoints(Messenger):
    """Reuse the subsamples of the first run in a second one, since the traces of an ELBO do not contain them."""

    def __init__(self) -> None:
        super().__init__()
        self.points: dict[str, Any] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if site_is_subsample(msg) and msg["name"] in self.points:
            msg["value"] = self.points[msg["name"]]

    def _pyro_post_sample(self, msg: Any) -> None:
        if site_is_subsample(msg):
            self.points[msg["name"]] = msg["value"]


class PathTraceELBO(_PathDerivative):
    """`Trace_ELBO` that differentiates log q(z) through the draw z alone, "sticking the landing".

    The gradient of log q_φ(z(φ)) with respect to φ has a part through z and a part at fixed z, the score. The score is
    zero in expectation, so the gradient without it is still unbiased. If q is the posterior, the remaining part is zero
    for every single draw. The loss itself is that of `Trace_ELBO`.

    The guide is scored a second time, at the same draws with fixed parameters. This costs a log-density without cached
    values: one more pass for a coupling flow, but D passes for an inverse autoregressive one; see `density` of
    `FlowSpec.cost`.

    Raises:
        FlowvaeError: if a latent variable of the guide is not reparametrized; use `Trace_ELBO` there.

    References:
        Roeder, Wu & Duvenaud (2017), "Sticking the Landing".
    """


class CompiledPathTraceELBO(_PathDerivative, CompiledTrace_ELBO):
    """`PathTraceELBO` that captures the tensor operations of model and guide; see `CompiledTrace_ELBO`."""


@dataclass(frozen=True)
class StickingTheLanding(ObjectiveSpec, name="sticking-the-landing"):
    """The ELBO with gradients through the draws alone, whose variance vanishes as the guide becomes exact.

    If the prior has its own latent variables, the parameters of their guide, which belong to the prior, keep the score
    part of the gradient, which is zero in expectation.
    """

    title: ClassVar[str] = "ELBO with path-derivative gradients"
    paper: ClassVar[str] = "Roeder et al. 2017"

    def check_parts(self, prior: PriorSpec, guide: GuideSpec, features: int, conditional: bool) -> None:
        warn_if_slow_score("sticking-the-landing", guide, features)

    def build(self, *, compile: str = "none", **settings: Any) -> PathTraceELBO | CompiledPathTraceELBO:  # noqa: A002
        if compile == "none":
            return PathTraceELBO(**settings)
        return CompiledPathTraceELBO(compile=compile, **settings)


def path_cost(guide: nn.Module) -> Cost:
    """Network passes of a guide: to score a given value, as path gradients do, and to draw with a density.

    They are the sum over parts of the guide with a method `cost`, such as `AutoFlow`. Pyro's flow guides have no such
    method and count as autoregressive, with a pass for each latent number. Other guides have no network to invert.
    """
    density = draw = 0
    for part in guide.modules():
        cost: Any = getattr(part, "cost", None)
        if callable(cost):
            passes = cost()
            density, draw = density + passes.density, draw + passes.sample_and_density
        elif isinstance(part, AutoNormalizingFlow):
            density, draw = density + part.latent_dim, draw + 1
    return Cost(density, draw, draw)


def has_cheap_path(guide: nn.Module) -> bool:
    """Whether path gradients are worth their passes, by `path_cost`.

    They are if a second score costs up to 3 times a draw, as for Gaussians and coupling flows, or up to 64 passes,
    which take little time compared with the rest of the step. For an `IAF` of two transforms this means up to 31 latent
    numbers.
    """
    cost = path_cost(guide)
    return cost.density <= max(FEW, CHEAP * cost.sample_and_density)


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
