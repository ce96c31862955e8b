"""A joint Adam with Pyro's optimizer interface, and an ELBO that raises if it is not finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pyro.infer import Trace_ELBO
from pyro.optim import PyroOptim
from torch import Tensor, nn

from flowvae.core.errors import FlowvaeError, check_int_value

__all__ = ["Chunk", "FiniteTraceELBO", "JointAdam", "NonFiniteError", "Part"]

OWN = 2**15  # a parameter of this many numbers has its own chunk; copying its gradient would cost more than a loop
ALIGNED = 16  # parameters of a chunk begin at multiples of this many numbers


class NonFiniteError(ArithmeticError):
    """A loss or a gradient is NaN or infinite; the step was not taken."""


@dataclass(frozen=True)
class Part:
    """Position of a parameter in a chunk: its first index, and the number of unused elements after it."""

    parameter: Tensor
    start: int
    padding: int


@dataclass(frozen=True)
class Chunk:
    """Parameters packed into one tensor, with Adam's moments.

    Args:
        weights: the parameters, shape (n,).
        mean: exponential average of their gradients, shape (n,).
        square: exponential average of the squares, shape (n,).
        decay: their decoupled weight decay.
        parts: positions of the parameters.
    """

    weights: Tensor
    mean: Tensor
    square: Tensor
    decay: float
    parts: list[Part]

    def holds(self) -> bool:
        """Whether the parameters are still in this memory."""
        size, first = self.weights.element_size(), self.weights.data_ptr()
        return all(part.parameter.data_ptr() == first + size * part.start for part in self.parts)


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
        self.packed: list[Chunk] = []
        self._ahead = 0  # steps taken by a program that Adam has not counted
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
        self._count()
        with_gradient = [p for p in self.parameters.values() if p.grad is not None]
        gradients = [p.grad for p in with_gradient if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        length = norm.item()
        if not math.isfinite(length):
            raise NonFiniteError(f"the norm of the gradient is {length}")
        if self.clip is not None and length > self.clip - 1e-5:  # tolerance of torch's clipping
            torch.nn.utils.clip_grads_with_norm_(with_gradient, self.clip, norm)
        self.adam.step()
        for p in with_gradient:
            # Pyro leaves zeros, and only in parameters of `param` statements: those without a gradient in the next
            # step would go on moving, and the gradients of the others would add up
            p.grad = None

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
        self._count()
        names: dict[Tensor, str] = {p: n for n, p in self.parameters.items()}
        return {f"{names[p]}/{kind}": value for p, kinds in self.adam.state.items() for kind, value in kinds.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue from what `state` returned."""
        self.unpack()
        self.adam.state.clear()
        for key, value in state.items():
            name, _, kind = key.rpartition("/")
            self.adam.state[self.parameters[name]][kind] = value

    def pack(self, parameters: Sequence[Tensor]) -> list[Chunk]:
        """Pack parameters and moments into common memory, for a program that updates them.

        Parameters remain the same objects, and `state` and `restore` are not affected.

        Args:
            parameters: all parameters that will have a gradient.

        Raises:
            ValueError: if they are not this optimizer's, or have taken different numbers of steps.
        """
        held = {id(part.parameter) for chunk in self.packed for part in chunk.parts}
        if held == set(map(id, parameters)) and all(chunk.holds() for chunk in self.packed):
            return self.packed
        self.unpack()
        if any(parameter not in self._own for parameter in parameters):
            raise ValueError("a parameter is not the optimizer's")
        counts = {float(self.adam.state[p]["step"]) if p in self.adam.state else 0.0 for p in parameters}
        if len(counts) > 1:
            raise ValueError(f"parameters have taken {' and '.join(f'{n:g}' for n in sorted(counts))} steps")
        groups: dict[Any, list[Tensor]] = {}
        for group in self.adam.param_groups:
            for p in group["params"]:
                if any(p is parameter for parameter in parameters):
                    own = id(p) if p.numel() >= OWN else 0
                    groups.setdefault((group["weight_decay"], p.dtype, p.device, own), []).append(p)
        self.packed = [self._chunk(found, decay) for (decay, *_), found in groups.items()]
        return self.packed

    @torch.no_grad()
    def _chunk(self, parameters: list[Tensor], decay: float) -> Chunk:
        parts, length = [], 0
        for p in parameters:
            padding = -p.numel() % ALIGNED if len(parameters) > 1 else 0
            parts.append(Part(p, length, padding))
            length += p.numel() + padding
        weights, mean, square = (parameters[0].new_zeros(length) for _ in range(3))
        for part in parts:
            p, end = part.parameter, part.start + part.parameter.numel()
            state = self.adam.state[p]
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32, device=p.device)  # as torch's fused Adam
                state["exp_avg"] = state["exp_avg_sq"] = torch.zeros_like(p)
            for memory, value in ((weights, p.data), (mean, state["exp_avg"]), (square, state["exp_avg_sq"])):
                memory[part.start : end].view(p.shape).copy_(value)
            p.data = weights[part.start : end].view(p.shape)
            state["exp_avg"] = mean[part.start : end].view(p.shape)
            state["exp_avg_sq"] = square[part.start : end].view(p.shape)
        return Chunk(weights, mean, square, decay, parts)

    def unpack(self) -> None:
        """Copy packed parameters and their moments to separate memory."""
        self._count()
        for chunk in self.packed:
            for part in chunk.parts:
                part.parameter.data = part.parameter.data.clone()
                state = self.adam.state[part.parameter]
                for kind in ("exp_avg", "exp_avg_sq"):
                    state[kind] = state[kind].clone()
        self.packed = []

    def rates(self) -> tuple[float, float, float]:
        """Coefficients of Adam's next step on packed parameters.

        Returns:
            The learning rate divided by the bias correction 1 − β₁ᵗ, the root of the bias correction 1 − β₂ᵗ, and the
            learning rate.
        """
        step, (beta1, beta2), rate = self.steps + 1, self.betas, self.learning_rate
        return rate / (1 - beta1**step), math.sqrt(1 - beta2**step), rate

    @property
    def steps(self) -> int:
        """Number of steps that the packed parameters have taken."""
        return int(self.adam.state[self.packed[0].parts[0].parameter]["step"]) + self._ahead

    def advance(self) -> None:
        """Count a step that a program has taken on the packed parameters."""
        self._ahead += 1

    def _count(self) -> None:
        if self._ahead:
            steps = [self.adam.state[part.parameter]["step"] for chunk in self.packed for part in chunk.parts]
            torch._foreach_add_(steps, float(self._ahead))
            self._ahead = 0

    @property
    def betas(self) -> tuple[float, float]:
        """Decay rates of the averages of gradients and of their squares."""
        first, second = self.adam.param_groups[0]["betas"]
        return float(first), float(second)

    @property
    def eps(self) -> float:
        """The constant added to the root of the second moment."""
        return float(self.adam.param_groups[0]["eps"])


class FiniteTraceELBO(Trace_ELBO):
    """`Trace_ELBO` that raises if the loss is not finite, where Pyro only warns.

    It also differentiates a pair without `param` statements, such as two plain modules, for which Pyro computes no
    gradient.

    Args:
        num_particles: number of draws.
        args: further positional arguments of `Trace_ELBO`.
        settings: keyword arguments of `Trace_ELBO`.

    Raises:
        FlowvaeError: if the number of draws is not positive.
    """

    def __init__(self, num_particles: int = 1, *args: Any, **settings: Any) -> None:
        check_int_value("num_particles", num_particles)
        super().__init__(num_particles, *args, **settings)

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Compute the loss in nats, and add its gradients to those of the parameters.

        Raises:
            NonFiniteError: if the loss is not finite.
        """
        loss = 0.0
        for traces in self._get_traces(model, guide, args, kwargs):
            value, surrogate = self._differentiable_loss_particle(*traces)
            loss += float(value) / self.num_particles
            if getattr(surrogate, "requires_grad", False):
                (surrogate / self.num_particles).backward(retain_graph=self.retain_graph)
        if not math.isfinite(loss):
            raise NonFiniteError(f"the loss is {loss}")
        return loss
