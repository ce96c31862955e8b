"""The importance-weighted bound with doubly reparametrized gradients of the guide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from flowvae.core.parts import GuideSpec, PriorSpec
from flowvae.inference.objectives.iwae import IWAE, IWAETraceELBO
from flowvae.inference.objectives.log_weights import log_weights, refuse_unreparametrized, sample_sites
from flowvae.inference.objectives.spec import warn_if_slow_score

__all__ = ["DReG", "DReGTraceELBO"]


class DReGTraceELBO(IWAETraceELBO):
    """`IWAETraceELBO` whose gradient of the guide is doubly reparametrized.

    The gradient of log 1/K Σ_k w_k with respect to the guide's parameters φ is

        Σ_k v_k² ∂log w_k/∂z_k dz_k/dφ,    v_k = w_k / Σ_j w_j,

    since the score term of the IWAE's gradient is reparametrized once more. It is unbiased, and its signal-to-noise
    ratio grows with √K. With K = 1 it is "sticking the landing". The gradient of the model's parameters is the IWAE's.

    The guide runs once. Its density is evaluated at given draws, without cached values, which takes D passes for an
    inverse autoregressive flow; and the log-weights are differentiated twice.

    Plates and errors are those of `RenyiTraceELBO`; latent sites that are scaled relative to the observed ones are
    an error too, since the derivation needs weights p / q.

    References:
        Tucker, Lawson, Gu & Maddison (2019), "Doubly Reparameterized Gradient Estimators for Monte Carlo Objectives".
    """

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        cut = _Cut()
        model_trace, guide_trace = super()._get_trace(model, cut(guide), args, kwargs)
        guide_trace.cut = cut
        return model_trace, guide_trace

    def _terms(self, model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Tensor, Tensor]:
        pairs = list(self._get_traces(model, guide, args, kwargs))
        for _, guide_trace in pairs:
            refuse_unreparametrized(sample_sites(guide_trace), "pyro.infer.RenyiELBO(alpha=0)")
        weights = log_weights(pairs, self.num_particles, self.vectorize_particles, unweighted=True)
        loss = self._loss(weights)
        if not torch.is_grad_enabled():
            return loss, loss
        with torch.no_grad():
            shares = weights.values.softmax(0)
        surrogate = -(weights.scale * shares * weights.joint).sum()
        doubly = (weights.scale * shares.square() * weights.values).sum()
        for _, guide_trace in pairs:
            surrogate = surrogate - guide_trace.cut.path(doubly)
        return loss, surrogate


class _Cut(Messenger):
    """Replace each draw of a guide by a new leaf tensor of the same value.

    Attributes:
        drawn: the draws, as functions of the guide's parameters and of the leaves before them.
        leaves: the leaves.
    """

    def __init__(self) -> None:
        super().__init__()
        self.drawn: list[Tensor] = []
        self.leaves: list[Tensor] = []

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or msg["done"] or site_is_subsample(msg) or not msg["fn"].has_rsample:
            return
        drawn = msg["fn"](*msg["args"], **msg["kwargs"])
        msg["value"], msg["done"] = drawn.detach().requires_grad_(torch.is_grad_enabled()), True
        self.drawn.append(drawn)
        self.leaves.append(msg["value"])

    def path(self, objective: Tensor) -> Any:
        """A term whose gradient is that of the objective through the draws only."""
        if not objective.requires_grad or not self.leaves:
            return 0.0
        found = torch.autograd.grad(objective, self.leaves, retain_graph=True, allow_unused=True)
        gradients = list(found)
        term: Any = 0.0
        for n in reversed(range(len(self.leaves))):  # later draws depend on earlier ones
            drawn, gradient = self.drawn[n], gradients[n]
            if gradient is None or not drawn.requires_grad:
                continue
            if n:
                before = torch.autograd.grad(drawn, self.leaves[:n], gradient, retain_graph=True, allow_unused=True)
                for i, more in enumerate(before):
                    if more is not None:
                        gradients[i] = more if gradients[i] is None else gradients[i] + more
            term = term + (gradient * drawn).sum()
        return term


@dataclass(frozen=True)
class DReG(IWAE, name="dreg"):
    """Importance-weighted bound with doubly reparametrized gradients of the guide.

    Args:
        particles: K.
    """

    title: ClassVar[str] = "importance-weighted bound, doubly reparametrized"
    paper: ClassVar[str] = "Tucker et al. 2019"
    combines: ClassVar[tuple[str, ...]] = ()

    def check_parts(self, prior: PriorSpec, guide: GuideSpec, features: int, conditional: bool) -> None:
        warn_if_slow_score("dreg", guide, features)

    def build(self, **settings: Any) -> DReGTraceELBO:
        return DReGTraceELBO(**{"num_particles": self.particles, **settings})
