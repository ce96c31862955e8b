"""A fixed permutation of the dimensions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from zuko.lazy import LazyTransform
from zuko.transforms import PermutationTransform

from flowvae.core.parts import Cost
from flowvae.flows.spec import FlowSpec

__all__ = ["FixedPermutation", "Permutation"]


class FixedPermutation(LazyTransform):
    """Fixed permutation u_i = z_{order_i}; the order, shape (D,), is a buffer: saved with the weights, not trained."""

    def __init__(self, order: Tensor) -> None:
        super().__init__()
        self.order: Tensor
        self.register_buffer("order", order)

    def forward(self, c: Tensor | None = None) -> PermutationTransform:
        """Return the permutation; a context is ignored."""
        return PermutationTransform(self.order)


@dataclass(frozen=True)
class Permutation(FlowSpec):
    """Random permutation of the dimensions, drawn when the layer is built; log|det| = 0.

    Use it between layers that treat dimensions differently. It does not start as the identity, and alone it is neither
    a prior nor a guide.

    References:
        Dinh, Krueger & Bengio (2014), "NICE: Non-linear Independent Components Estimation".

    >>> sorted(Permutation().transform(features=3)().order.tolist())
    [0, 1, 2]
    """

    title: ClassVar[str] = "fixed permutation"
    paper: ClassVar[str] = "Dinh et al. 2014"
    roles: ClassVar[tuple[str, ...]] = ()
    why_not: ClassVar[str] = "it is a layer for use between others, and alone it only reorders the dimensions"

    @property
    def starts_as_identity(self) -> bool:
        return False

    def transform(self, features: int, context: int = 0) -> LazyTransform:
        self.check_features(features)
        return FixedPermutation(torch.randperm(features))

    def cost(self, features: int) -> Cost:
        return Cost(density=0, sample=0, sample_and_density=0)
