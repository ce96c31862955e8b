"""Masked autoregressive transforms whose masks take time and memory linear in the number of features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import prod

import torch
from torch import Size, Tensor, nn
from torch.distributions import Transform
from zuko.lazy import LazyComposedTransform, LazyTransform
from zuko.nn import MaskedLinear
from zuko.transforms import AutoregressiveTransform, DependentTransform, MonotonicAffineTransform
from zuko.utils import broadcast, unpack

__all__ = ["masked_autoregressive"]


def masked_autoregressive(
    features: int,
    context: int = 0,
    *,
    transforms: int,
    hidden_features: Sequence[int],
    passes: int | None = None,
    univariate: Callable[..., Transform] = MonotonicAffineTransform,
    shapes: Sequence[Sequence[int]] = ((), ()),
) -> LazyTransform:
    """Stack masked autoregressive transforms, the order reversed each time, as in `zuko.flows.MAF`.

    Zuko derives its masks from D × D dependency matrices, which takes D³ operations and, for 10,000 features,
    gigabytes. Here they come from the position of each feature's group in the order. Weights, their names and masks
    equal zuko's, except where a network has fewer hidden units than groups: zuko assigns the units to the first groups,
    so that features depend on the first few features only; here they are spread over all groups.

    Args:
        features: D.
        context: size of the context; 0: none.
        transforms: number of transforms.
        hidden_features: widths of the hidden layers of each transform's network.
        passes: number of groups, and of passes in the inverse direction; None: one group per feature; 2: coupling.
        univariate: constructor of the transform of one feature.
        shapes: shapes of the parameters of `univariate`.
    """
    order = torch.arange(features)
    orders = (order, order.flip(0))
    made = [
        _Masked(features, context, orders[step % 2], hidden_features, passes, univariate, shapes)
        for step in range(transforms)
    ]
    return LazyComposedTransform(*made)


class _Masked(LazyTransform):
    """One transform: x_i → f(x_i) with parameters that depend on the features of earlier groups and the context."""

    def __init__(
        self,
        features: int,
        context: int,
        order: Tensor,
        hidden_features: Sequence[int],
        passes: int | None,
        univariate: Callable[..., Transform],
        shapes: Sequence[Sequence[int]],
    ) -> None:
        super().__init__()
        self.univariate = univariate
        self.shapes = [Size(shape) for shape in shapes]
        self.total = sum(prod(shape) for shape in shapes)
        self.passes = min(features if passes is None else passes, features)
        size = -(-features // self.passes)  # of a group
        self.order: Tensor
        self.register_buffer("order", order // size)
        groups = -(-features // size)
        # A unit of group k may read inputs of groups below k, and units of groups up to k. The context precedes all.
        reads = torch.cat([self.order, torch.full((context,), -1)])
        first = 0 if context else 1  # the first group that may read anything
        layers: list[nn.Module] = []
        for layer, width in enumerate(hidden_features):
            unit = first + _spread(width, groups - first)
            layers += [MaskedLinear(unit[:, None] >= reads if layer else unit[:, None] > reads), nn.ReLU()]
            reads = unit
        layers.append(MaskedLinear(self.order.repeat_interleave(self.total)[:, None] >= reads))
        self.hyper = nn.Sequential(*layers)

    def _of(self, c: Tensor | None, x: Tensor) -> Transform:
        if c is not None:
            x = torch.cat(broadcast(x, c, ignore=1), dim=-1)
        phi = unpack(self.hyper(x).unflatten(-1, (-1, self.total)), self.shapes)
        return DependentTransform(self.univariate(*phi), 1)

    def forward(self, c: Tensor | None = None) -> Transform:
        """Return the transform given a context."""
        return AutoregressiveTransform(partial(self._of, c), self.passes)


def _spread(units: int, groups: int) -> Tensor:
    """Assign hidden units to groups: in turn if there are enough of them, and otherwise evenly spread."""
    unit = torch.arange(units)
    return unit % groups if units >= groups else unit * groups // units
