"""A fixed permutation of the dimensions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from zuko.lazy import LazyTransform
from zuko.transforms import PermutationTransform

from flowvae.flows.spec import Cost, FlowSpec

__all__ = ["FixedPermutation", "Permutation"]


class FixedPermutation(LazyTransform):
    """u_i = z_{order_i}, where the order, shape (D,), is a buffer: saved with the weights and not trained."""

    def __init__(self, order: Tensor) -> None:
        super().__init__()
        self.order: Tensor
        self.register_buffer("order", order)

    def forward(self, c: Tensor | None = None) -> PermutationTransform:
        """The permutation; a context changes nothing."""
        return PermutationTransform(self.order)


@dataclass(frozen=True)
class Permutation(FlowSpec):
    """A layer that permutes the dimensions, drawn when it is built; log|det| = 0.

    It goes between layers that treat dimensions differently, and starts as a permutation, not as the identity.
    Alone it is neither a prior nor a guide.

    References:
        Dinh, Krueger & Bengio (2014), "NICE: Non-linear Independent Components Estimation".

    >>> sorted(Permutation().transform(features=3)().order.tolist())
    [0, 1, 2]
    """

    title: ClassVar[str] = "fixed permutation"
    paper: ClassVar[str] = "Dinh et al. 2014"
    roles: ClassVar[tuple[str, ...]] = ()
    why_not: ClassVar[str] = "it is a layer to go between others, and alone it only renames the dimensions"

    @property
    def starts_as_identity(self) -> bool:
        return False

    def transform(self, features: int, context: int = 0) -> LazyTransform:
        self.check_features(features)
        return FixedPermutation(torch.randperm(features))

    def cost(self, features: int) -> Cost:
        return Cost(density=0, sample=0, sample_and_density=0)
