"""Linear flow."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Transform
from zuko.lazy import LazyComposedTransform, LazyTransform
from zuko.transforms import AdditiveTransform, ComposedTransform, DependentTransform, LULinearTransform

from flowvae.core.errors import check_choice
from flowvae.core.parts import Cost
from flowvae.flows.layers.parametric import ParametricTransform
from flowvae.flows.linear.permutation import FixedPermutation
from flowvae.flows.spec import FlowSpec

__all__ = ["Linear"]

LARGEST = math.log(1000)  # soft bound of a log-scale, as in zuko's affine transforms


def _affine(matrix: Tensor, shift: Tensor) -> Transform:
    log_scale = matrix.diagonal(dim1=-2, dim2=-1)
    scale = (log_scale / (1 + (log_scale / LARGEST).abs())).exp()
    lower = matrix.tril(-1) + torch.diag_embed(scale)
    return ComposedTransform(LULinearTransform(lower + matrix.triu(1)), DependentTransform(AdditiveTransform(shift), 1))


@dataclass(frozen=True)
class Linear(FlowSpec, name="linear"):
    """Linear flow u = W z + b with W = LU, L and U triangular; log|det ∂u/∂z| = Σ log of their diagonal.

    As a prior it is a Gaussian with any mean and covariance; in a guide it gives a diagonal Gaussian a full
    covariance. It is useful in front of a flow that acts in a box, such as a spline. The diagonal is positive,
    between 1/1000 and 1000, so W is never singular. There is no network; a *pass* of `cost` is one product with W
    or its inverse. With a context, the factors and b are linear in it.

    Args:
        kind: "lu", or "plu": W = Pᵀ L U P with a fixed random permutation P of the dimensions, so that the triangular
            factors of different layers have different orders. (Glow has P on one side only, and starts as a
            permutation; this starts as the identity.)

    Raises:
        FlowvaeError: for any other kind.

    References:
        Kingma & Dhariwal (2018), "Glow: Generative Flow with Invertible 1x1 Convolutions"; Oliva et al. (2018),
        "Transformation Autoregressive Networks".

    >>> Linear().cost(features=8)
    Cost(density=1, sample=1, sample_and_density=1)
    """

    title: ClassVar[str] = "linear flow, by triangular factors"
    paper: ClassVar[str] = "Kingma & Dhariwal 2018"

    kind: str = "lu"

    def __post_init__(self) -> None:
        check_choice(self, "kind", ("lu", "plu"))

    def transform(self, features: int, context: int = 0) -> LazyTransform:
        self.check_features(features)
        affine = ParametricTransform(_affine, (torch.zeros(features, features), torch.zeros(features)), context)
        if self.kind == "lu":
            return affine
        order = FixedPermutation(torch.randperm(features))
        return LazyComposedTransform(order, affine, order.inv)

    def cost(self, features: int) -> Cost:
        return Cost(density=1, sample=1, sample_and_density=1)
