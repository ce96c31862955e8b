"""A joint Adam with Pyro's optimizer interface, and an ELBO that raises if it is not finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from pyro.infer import Trace_ELBO
from pyro.optim import PyroOptim
from torch import Tensor, nn

from flowvae.core.errors import FlowvaeError

__all__ = ["FiniteTraceELBO", "JointAdam", "NonFiniteError"]


class NonFiniteError(ArithmeticError):
    """A loss or a gradient is NaN or infinite; the step was not taken."""


class JointAdam(PyroOptim):
    """One torch Adam for all parameters, with clipping by the norm of the whole gradient.

    Pyro's own optimizers use one torch optimizer per tensor and clip each tensor separately, which takes most of the
    time of a step of a small model.

    Args:
        parameters: names and parameters, in a fixed order.
        learning_rate: Adam's step size.
        clip: largest norm of the gradient; None: no clipping.
        decay: function that returns the decoupled weight decay of a parameter.

    References:
        Loshchilov & Hutter (2019), "Decoupled Weight Decay Regularization".
    """

    def __init__(
        self,
        parameters: Iterable[tuple[str, nn.Parameter]],
        learning_rate: float,
        clip: float | None = None,
        decay: Callable[[nn.Parameter], float] = lambda parameter: 0.0,
    ) -> None:
        self.parameters = dict(parameters)
        self._own = set(self.parameters.values())
        groups: dict[float, list[nn.Parameter]] = {}
        for parameter in self.parameters.values():
            groups.setdefault(decay(parameter), []).append(parameter)
        self.adam = torch.optim.AdamW(
            [{"params": params, "weight_decay": value} for value, params in groups.items()],
            lr=learning_rate,
            fused=True,
        )
        self.clip = clip
        super().__init__(torch.optim.AdamW, {"lr": learning_rate})

    def __call__(self, params: Iterable[Tensor], *args: Any, **kwargs: Any) -> None:
        """Take one step; SVI calls this after the backward pass.

        Raises:
            NonFiniteError: before the step, if the gradient is not finite.
            FlowvaeError: for a parameter that belongs to neither module.
        """
        if foreign := [p for p in params if p not in self._own]:
            raise FlowvaeError(
                f"a parameter of shape {tuple(foreign[0].shape)} belongs neither to the model nor to the guide (as "
                "modules), so it would not be trained; make it an nn.Parameter of one of them, or use pyro.optim and "
                "your own SVI."
            )
        with_gradient = [p for p in self.parameters.values() if p.grad is not None]
        gradients = [p.grad for p in with_gradient if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        length = norm.item()
        if not math.isfinite(length):
            raise NonFiniteError(f"the norm of the gradient is {length}")
        if self.clip is not None and length > self.clip - 1e-5:  # tolerance of torch's clipping
            torch.nn.utils.clip_grads_with_norm_(with_gradient, self.clip, norm)
        self.adam.step()

    @property
    def learning_rate(self) -> float:
        """Adam's step size."""
        return float(self.adam.param_groups[0]["lr"])

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        for group in self.adam.param_groups:
            group["lr"] = value

    def state(self) -> dict[str, Tensor]:
        """Adam's moments and step counts, by parameter and kind."""
        names: dict[Tensor, str] = {p: n for n, p in self.parameters.items()}
        return {f"{names[p]}/{kind}": value for p, kinds in self.adam.state.items() for kind, value in kinds.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue from what `state` returned."""
        self.adam.state.clear()
        for key, value in state.items():
            name, _, kind = key.rpartition("/")
            self.adam.state[self.parameters[name]][kind] = value


class FiniteTraceELBO(Trace_ELBO):
    """`Trace_ELBO` that raises if the loss is not finite, where Pyro only warns."""

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """The loss in nats, with gradients left in the parameters.

        Raises:
            NonFiniteError: if the loss is not finite.
        """
        loss = float(super().loss_and_grads(model, guide, *args, **kwargs))
        if not math.isfinite(loss):
            raise NonFiniteError(f"the loss is {loss}")
        return loss
