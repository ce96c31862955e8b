"""Radial flow."""

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
from flowvae.flows.spec import FlowSpec

__all__ = ["Radial", "RadialTransform"]


class RadialTransform(Transform):
    """Radial layer z' = z + β (z − z_0) / (α + r) with r = ‖z − z_0‖, in its *generative* direction.

    α = softplus(a) > 0 and β = −α + softplus(b) > −α. The radius becomes r' = r (1 + β / (α + r)), and
    log|det ∂z'/∂z| = (D − 1) log(1 + βh) + log(1 + βh + βh'r) with h = 1 / (α + r). The radius r is the root of a
    quadratic, so both directions have closed forms.

    Args:
        center: z_0, shape (..., D).
        a: α before softplus, the width of the region that moves, shape (...).
        b: α + β before softplus, shape (...); the layer contracts for b < a and expands for b > a.
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, center: Tensor, a: Tensor, b: Tensor) -> None:
        super().__init__()
        least = torch.finfo(center.dtype).eps  # softplus can round to 0, but the inequalities are strict
        self.center = center
        self.alpha = F.softplus(a).clamp_min(least)
        self.total = F.softplus(b).clamp_min(least)  # α + β

    def _radius(self, z: Tensor) -> Tensor:
        return torch.linalg.vector_norm(z - self.center, dim=-1)

    def _stretch(self, r: Tensor) -> Tensor:
        """Compute the quotient r' / r = 1 + βh, as a quotient of positive sums."""
        return (self.total + r) / (self.alpha + r)

    def _call(self, x: Tensor) -> Tensor:
        return self.center + self._stretch(self._radius(x)).unsqueeze(-1) * (x - self.center)

    def _inverse(self, y: Tensor) -> Tensor:
        # r² + (α + β − r') r − α r' = 0 has one positive root; each branch adds terms of one sign only
        far = self._radius(y)
        half = (self.total - far) / 2
        root = (half.square() + self.alpha * far).sqrt()
        # where r' = 0 the quotient r / r' has the limit α / (α + β), which the first branch gives
        stretch = torch.where(half > 0, (root + half.abs()) / self.alpha, far / (root + half.abs()))
        return self.center + (y - self.center) / stretch.unsqueeze(-1)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Compute the log-determinant in nats, shape (...)."""
        r = self._radius(x)
        # ∂r'/∂r = 1 + βh + βh'r = (r² + 2αr + α(α + β)) / (α + r)²
        radial = (r.square() + 2 * self.alpha * r + self.alpha * self.total).log() - 2 * (self.alpha + r).log()
        return (x.shape[-1] - 1) * self._stretch(r).log() + radial


@dataclass(frozen=True)
class Radial(FlowSpec, name="radial"):
    """Radial flow: each layer contracts or expands space around a point, z' = z + β (z − z_0) / (α + r).

    Its inverse also has a closed form (the root of a quadratic), so it can be a prior or a posterior. There is no
    network: a *pass* of `cost` is one evaluation of one layer, and the density of a given z takes two, the
    inverse and then the determinant there. With a context, the parameters of each layer are linear in it.

    Args:
        transforms: number of layers.

    References:
        Rezende & Mohamed (2015), "Variational Inference with Normalizing Flows".

    >>> Radial(transforms=8).cost(features=8)
    Cost(density=16, sample=8, sample_and_density=16)
    """

    title: ClassVar[str] = "radial flow"
    paper: ClassVar[str] = "Rezende & Mohamed 2015"

    transforms: int = 8

    def __post_init__(self) -> None:
        check_int(self, "transforms", most=MOST_LAYERS)

    def transform(self, features: int, context: int = 0) -> LazyTransform:
        self.check_features(features)
        one = torch.tensor(math.log(math.e - 1))  # softplus of it is 1: α = 1, β = 0
        layers = [
            ParametricTransform(RadialTransform, (torch.randn(features), one.clone(), one.clone()), context).inv
            for _ in range(self.transforms)
        ]
        return LazyComposedTransform(*layers)

    def cost(self, features: int) -> Cost:
        layers = self.transforms
        return Cost(density=2 * layers, sample=layers, sample_and_density=2 * layers)
