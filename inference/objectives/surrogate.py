"""ELBOs that are given by a loss and a surrogate loss, run by Pyro or as a captured program."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from flowvae.core.errors import check_choice
from flowvae.inference.compile.compiled import MODES, CompiledTrace_ELBO
from flowvae.inference.optim import FiniteTraceELBO, NonFiniteError

__all__ = ["SurrogateELBO"]


class _Eager(FiniteTraceELBO):
    """Loss and gradients from `_terms`, without a program."""

    def _terms(self, model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Tensor, Tensor]:
        """Return the loss in nats, and the surrogate loss whose gradient estimates that of the loss."""
        raise NotImplementedError

    @torch.no_grad()
    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        return self._terms(model, guide, args, kwargs)[0].item()

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        loss, surrogate = self._terms(model, guide, args, kwargs)
        value = loss.item()
        if not math.isfinite(value):
            raise NonFiniteError(f"the loss is {value}")
        if surrogate.requires_grad:
            surrogate.backward(retain_graph=self.retain_graph)
        return value

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        loss, surrogate = self._terms(model, guide, args, kwargs)
        return loss.detach() + (surrogate - surrogate.detach())


class SurrogateELBO(CompiledTrace_ELBO, _Eager):
    """Base class of Pyro ELBOs that define `_terms`: a loss, and a surrogate loss with its gradient.

    Args:
        compile: "none": run model and guide in every step; "capture" or "inductor": see `CompiledTrace_ELBO`.
        settings: those of `Trace_ELBO`.
    """

    def __init__(self, *, compile: str = "none", **settings: Any) -> None:  # noqa: A002
        super().__init__(**settings)
        self.compile = compile
        check_choice(self, "compile", ("none", *MODES))

    def _program(self, model: Any, guide: Any, args: Any, kwargs: Any, gradients: bool) -> Any:
        if self.compile == "none":
            return None
        return super()._program(model, guide, args, kwargs, gradients)
