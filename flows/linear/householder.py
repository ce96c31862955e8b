"""Householder flow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Transform, constraints
from zuko.lazy import LazyTransform

from flowvae.core.errors import MOST_LAYERS, FlowvaeError, check_int
from flowvae.core.parts import Cost
from flowvae.flows.layers.parametric import ParametricTransform
from flowvae.flows.spec import FlowSpec

__all__ = ["Householder", "HouseholderTransform", "reflect"]


def reflect(x: Tensor, vectors: Tensor, reverse: bool = False) -> Tensor:
    """Reflect x (..., D) in the hyperplanes through 0 that are normal to the vectors (..., K, D), one after another.

    The first vector comes first; with `reverse`, the last one. A zero vector leaves x unchanged.
    """
    # a reflection does not depend on the vector's length; with a largest entry of 1, squares do not overflow
    largest = vectors.detach().abs().amax(-1, keepdim=True)
    unit = vectors / torch.where(largest > 0, largest, 1)
    unit = unit / torch.linalg.vector_norm(unit, dim=-1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    order = unit.unbind(-2)
    for v in reversed(order) if reverse else order:
        x = x - 2 * (x * v).sum(-1, keepdim=True) * v
    return x


class HouseholderTransform(Transform):
    """Reflections z' = H_K … H_1 z with H_k = I − 2 v_k v_kᵀ / ‖v_k‖², the *generative* direction; log|det| = 0.

    Args:
        vectors: v_1 … v_K, shape (..., K, D).
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, vectors: Tensor) -> None:
        super().__init__()
        self.vectors = vectors

    def _call(self, x: Tensor) -> Tensor:
        return reflect(x, self.vectors)

    def _inverse(self, y: Tensor) -> Tensor:
        return reflect(y, self.vectors, reverse=True)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Return zero, in nats, shape (...)."""
        return torch.zeros_like((x + y)[..., 0])


@dataclass(frozen=True)
class Householder(FlowSpec, name="householder"):
    """Householder flow: a product of reflections, z' = Π_k (I − 2 v_k v_kᵀ / ‖v_k‖²) z. It preserves volume.

    A Gaussian base remains Gaussian: the flow only gives a diagonal guide a full covariance. N(0, I) remains N(0, I)
    for all parameters, so it cannot be a prior. The inverse is of the same family, with the reflections in reverse
    order.

    The reflections start in equal pairs, which cancel. A *pass* of `cost` is one reflection.

    Args:
        transforms: number of reflections, an even number (a product of an odd number is never the identity).

    Raises:
        FlowvaeError: for an odd number of reflections, or one out of range.

    References:
        Tomczak & Welling (2016), "Improving Variational Auto-Encoders using Householder Flow".

    >>> Householder(transforms=4).cost(features=8)
    Cost(density=4, sample=4, sample_and_density=4)
    """

    title: ClassVar[str] = "Householder flow, volume preserving"
    paper: ClassVar[str] = "Tomczak & Welling 2016"
    roles: ClassVar[tuple[str, ...]] = ("posterior",)
    why_not: ClassVar[str] = "it rotates, and N(0, I) rotated is N(0, I)"
    inverse_name: ClassVar[str] = "Householder"

    transforms: int = 4

    def __post_init__(self) -> None:
        check_int(self, "transforms", least=2, most=MOST_LAYERS)
        if self.transforms % 2:
            raise FlowvaeError(
                f"Householder.transforms = {self.transforms}: must be even, so that the reflections cancel at "
                f"the start. Use {self.transforms + 1}."
            )

    def transform(self, features: int, context: int = 0) -> LazyTransform:
        self.check_features(features)
        pairs = torch.randn(self.transforms // 2, features).repeat_interleave(2, dim=0)
        return ParametricTransform(HouseholderTransform, (pairs,), context).inv

    def cost(self, features: int) -> Cost:
        return Cost(density=self.transforms, sample=self.transforms, sample_and_density=self.transforms)
