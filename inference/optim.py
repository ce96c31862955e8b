"""Adam over all parameters at once, behind Pyro's optimizer interface, and a loss that refuses to be NaN."""

from __future__ import annotations

import math
from typing import Any, Callable, Iterable

import torch
from pyro.infer import Trace_ELBO
from pyro.optim import PyroOptim
from torch import Tensor, nn

__all__ = ["FiniteTraceELBO", "JointAdam", "NonFiniteError"]


class NonFiniteError(ArithmeticError):
    """A loss or a gradient is NaN or infinite; nothing has been stepped."""


class JointAdam(PyroOptim):
    """One torch Adam for every parameter, with clipping by the norm of the whole gradient.

    Pyro's own optimizers hold one torch optimizer a tensor, clip each tensor by itself, and spend most of a
    small model's step on that.

    Args:
        parameters: names and parameters, in a fixed order.
        learning_rate: Adam's step size.
        clip: the largest norm that the gradient keeps; None: no clipping.
        weight_decay: decoupled decay (Loshchilov & Hutter 2019) of the parameters that `decayed` chooses.
        decayed: says by name which parameters decay.
    """

    def __init__(
        self,
        parameters: Iterable[tuple[str, nn.Parameter]],
        learning_rate: float,
        clip: float | None = None,
        weight_decay: float = 0.0,
        decayed: Callable[[str], bool] = lambda name: True,
    ) -> None:
        self.parameters = dict(parameters)
        groups = [
            {"params": [p for n, p in self.parameters.items() if decayed(n)], "weight_decay": weight_decay},
            {"params": [p for n, p in self.parameters.items() if not decayed(n)], "weight_decay": 0.0},
        ]
        self.adam = torch.optim.AdamW(
            [group for group in groups if group["params"]], lr=learning_rate, fused=True
        )
        self.clip = clip
        super().__init__(torch.optim.AdamW, {"lr": learning_rate})

    def __call__(self, params: Iterable[Tensor], *args: Any, **kwargs: Any) -> None:
        """Take one step; SVI calls this after the backward pass.

        Raises:
            NonFiniteError: before the step, if the gradient is not finite.
        """
        with_gradient = [p for p in self.parameters.values() if p.grad is not None]
        gradients = [p.grad for p in with_gradient if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if not math.isfinite(norm.item()):
            raise NonFiniteError(f"the norm of the gradient is {norm.item()}")
        if self.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(with_gradient, self.clip, norm)
        self.adam.step()

    def state(self) -> dict[str, Tensor]:
        """Adam's moments and step counts, by parameter and kind."""
        names = {p: n for n, p in self.parameters.items()}
        return {
            f"{names[p]}/{kind}": value
            for p, kinds in self.adam.state.items()
            for kind, value in kinds.items()
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take over what `state` gave."""
        self.adam.state.clear()
        for key, value in state.items():
            name, _, kind = key.rpartition("/")
            self.adam.state[self.parameters[name]][kind] = value


class FiniteTraceELBO(Trace_ELBO):  # type: ignore[misc]
    """`Trace_ELBO` that raises where Pyro's only warns and lets the optimizer step."""

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """The loss in nats, with gradients left in the parameters.

        Raises:
            NonFiniteError: if the loss is not finite.
        """
        loss = float(super().loss_and_grads(model, guide, *args, **kwargs))
        if not math.isfinite(loss):
            raise NonFiniteError(f"the loss is {loss}")
        return loss
