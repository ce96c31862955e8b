"""Annealing as Pyro handlers: weights on log-densities that change during training.

KL warm-up and tempering are different objectives. Warm-up weights the latent sites in both model and guide,
E_q[log p(x|z) + β (log p(z) − log q(z|x))]. Tempering weights the whole model but not the guide,
E_q[β log p(x, z) − log q(z|x)], as in the free energy of Rezende & Mohamed (2015).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import effectful
from torch import Tensor

__all__ = ["Ramp", "WeighSites", "current", "temper", "weigh_latent"]


class Ramp:
    """A weight that grows linearly from `start` to `end` over `steps` optimization steps; calling it returns its value.

    >>> ramp = Ramp(steps=10, start=0.0)
    >>> ramp.step = 5
    >>> ramp()
    0.5
    """

    def __init__(self, steps: int, start: float, end: float = 1.0) -> None:
        self.steps = steps
        self.start = start
        self.end = end
        self.step = 0

    def __call__(self) -> float:
        if self.step >= self.steps:
            return self.end
        return self.start + (self.end - self.start) * self.step / self.steps


class WeighSites(Messenger):
    """Multiply the log-density of some sample sites by a weight, which is read again in every run.

    Args:
        weight: returns the weight.
        chosen: whether to weight a site, given as Pyro's message.
    """

    def __init__(self, weight: Callable[[], float], chosen: Callable[[Any], bool]) -> None:
        super().__init__()
        self.weight = weight
        self.chosen = chosen

    def _pyro_sample(self, msg: Any) -> None:
        if self.chosen(msg):
            msg["scale"] = current(self.weight) * msg["scale"]


def current(number: Callable[[], float]) -> float | Tensor:
    """Read the current value of a number through a Pyro message of type "number".

    The message tells a captured program that the number changes, so it becomes an input.
    """
    return effectful(number, type="number")()


def weigh_latent(fn: Callable[..., Any], weight: Callable[[], float]) -> Callable[..., Any]:
    """KL warm-up (Bowman et al. 2016) or a β-VAE: apply it to the model and to the guide."""
    return WeighSites(weight, lambda msg: not msg["is_observed"])(fn)


def temper(model: Callable[..., Any], weight: Callable[[], float]) -> Callable[..., Any]:
    """The annealed joint of Rezende & Mohamed (2015): apply it to the model only."""
    return WeighSites(weight, lambda msg: True)(model)
