"""Planar flow."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Transform, constraints
from zuko.lazy import LazyComposedTransform, LazyTransform

from flowvae.core.errors import MOST_LAYERS, check_int
from flowvae.core.parts import Cost
from flowvae.flows.layers.parametric import ParametricTransform
from flowvae.flows.residual.roots import TYPICAL_STEPS, monotone_root
from flowvae.flows.spec import FlowSpec

__all__ = ["Planar", "PlanarTransform"]


class PlanarTransform(Transform):
    """Planar layer z' = z + û tanh(wᵀz + b), in its *generative* direction.

    û = u + (softplus(a) − 1 − a) w / ‖w‖² with a = wᵀu, so that wᵀû = softplus(a) − 1 > −1: this is strictly
    invertible, because sup tanh' = 1. log|det ∂z'/∂z| = log(1 + tanh' wᵀû) is at least the log of the machine
    epsilon. If ‖w‖ is below this epsilon, û stays finite and the effect of w vanishes: at w = 0 the layer is a shift.

    Args:
        w: normal of the planes that move, shape (..., D).
        u: direction of their movement, before the constraint, shape (..., D).
        b: offset, shape (...).
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, w: Tensor, u: Tensor, b: Tensor) -> None:
        super().__init__()
        a, square = (w * u).sum(-1), w.square().sum(-1)
        epsilon = torch.finfo(w.dtype).eps
        least = epsilon**2  # of ‖w‖², by which û is divided
        # kept positive: for a below -36 it would round to 0, and the inequality is strict
        wanted = F.softplus(a).clamp_min(epsilon)
        along = (wanted - 1 - a) / square.clamp_min(least)
        self.w, self.b, self.u_hat = w, b, u + along.unsqueeze(-1) * w
        # 1 + wᵀû, which is `wanted` unless w is near 0
        share = (square / least).clamp_max(1)
        self.gap = share * wanted + (1 - share) * (1 + a)

    def _height(self, z: Tensor) -> Tensor:
        return (self.w * z).sum(-1)

    def _slope(self, t: Tensor) -> Tensor:
        """Compute 1 + tanh' wᵀû at t = tanh(·), written as a sum of positive terms."""
        return t.square() + (1 - t.square()) * self.gap

    def _call(self, x: Tensor) -> Tensor:
        return x + self.u_hat * torch.tanh(self._height(x) + self.b).unsqueeze(-1)

    def _inverse(self, y: Tensor) -> Tensor:
        # along w the map is a function of one variable: α' = α + wᵀû tanh(α + b)
        height, reach = self._height(y), self.gap - 1

        def excess(alpha: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            t = torch.tanh(alpha + self.b)
            inside = (1 - t.square()) * (alpha.abs() + self.b.abs())  # error of tanh due to its argument's rounding
            return alpha + reach * t - height, self._slope(t), height.abs() + reach.abs() * (1 + inside)

        alpha = monotone_root(excess, height - reach.abs(), height + reach.abs())
        return y - self.u_hat * torch.tanh(alpha + self.b).unsqueeze(-1)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Compute the log-determinant in nats, shape (...)."""
        return self._slope(torch.tanh(self._height(x) + self.b)).log()

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the value, shape (..., D), and its log-determinant in nats, shape (...), in one pass."""
        t = torch.tanh(self._height(x) + self.b)
        return x + self.u_hat * t.unsqueeze(-1), self._slope(t).log()


@dataclass(frozen=True)
class Planar(FlowSpec, name="planar"):
    """Planar flow, generative direction z' = z + û tanh(wᵀz + b): each layer moves points along one direction.

    A layer is weak but cheap, a few products of vectors, so many are stacked. There is no network; a *pass* of
    `cost` is one evaluation of one layer. With a context, w, u and b of each layer are linear in it.

    The density of a value that the flow did not draw needs the root of a function of one variable in each
    layer. It is found to float rounding in at most 12 passes for ordinary parameters (at most 54 in float32 and 112
    in float64 for any parameters). It is therefore a posterior; `Inverse(Planar())` is a prior.

    Args:
        transforms: number of layers.

    References:
        Rezende & Mohamed (2015), "Variational Inference with Normalizing Flows". The constraint is that of
        their appendix, with ‖w‖² where some public code divides by ‖w‖.

    >>> Planar(transforms=8).cost(features=8)
    Cost(density=96, sample=8, sample_and_density=8)
    """

    title: ClassVar[str] = "planar flow"
    paper: ClassVar[str] = "Rezende & Mohamed 2015"
    roles: ClassVar[tuple[str, ...]] = ("posterior",)
    why_not: ClassVar[str] = "the density of a value that it did not draw needs root-finding in every layer"

    transforms: int = 8

    def __post_init__(self) -> None:
        check_int(self, "transforms", most=MOST_LAYERS)

    def transform(self, features: int, context: int = 0) -> LazyTransform:
        self.check_features(features)
        layers = []
        for _ in range(self.transforms):
            w = torch.randn(features) / features**0.5
            # softplus(a) = 1 here, so û = 0; w is not 0, so u has a gradient
            u = math.log(math.e - 1) * w / w.square().sum()
            layers.append(ParametricTransform(PlanarTransform, (w, u, torch.zeros(())), context).inv)
        return LazyComposedTransform(*layers)

    def cost(self, features: int) -> Cost:
        layers = self.transforms
        return Cost(density=layers * TYPICAL_STEPS, sample=layers, sample_and_density=layers)
