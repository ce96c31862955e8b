"""Activation normalization: a scale and a shift of each dimension, with data-dependent initialization."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Transform
from zuko.lazy import LazyTransform
from zuko.transforms import DependentTransform, MonotonicAffineTransform

from flowvae.core.errors import FlowvaeError
from flowvae.core.parts import Cost
from flowvae.flows.layers.parametric import ParametricTransform
from flowvae.flows.spec import FlowSpec

__all__ = ["ActNorm", "ActNormTransform"]

LARGEST = math.log(1000)  # zuko bounds a log-scale s softly to s / (1 + |s / log 1000|)


def _affine(shift: Tensor, log_scale: Tensor) -> Transform:
    return DependentTransform(MonotonicAffineTransform(shift, log_scale), 1)


class ActNormTransform(ParametricTransform):
    """Lazy transform u = exp(s) ⊙ z + t, which starts as the identity unless `start_from` is called."""

    def __init__(self, features: int, context: int = 0) -> None:
        super().__init__(_affine, (torch.zeros(features), torch.zeros(features)), context)

    @torch.no_grad()
    def start_from(self, batch: Tensor) -> None:
        """Set s and t so that this batch, shape (..., D), has mean 0 and variance 1 in every dimension.

        Call it before training, with inputs of this layer; the first training batch does not do so. With a context, s
        and t become the same for every context.

        Raises:
            FlowvaeError: if a dimension's standard deviation is not between 1/1000 and 1000.
        """
        rows = batch.reshape(-1, batch.shape[-1])
        std = rows.std(0, correction=0)
        bad = ~((std > 1 / 1000) & (std < 1000))
        if bad.any():
            raise FlowvaeError(
                f"ActNorm.start_from: dimensions {bad.nonzero().flatten().tolist()} have standard deviations "
                f"{[float(f'{value:.3g}') for value in std[bad].tolist()]} over {len(rows)} values; each must be "
                "between 1/1000 and 1000. Give a larger batch, or rescale the data."
            )
        bounded = -std.log()
        start = torch.cat([-rows.mean(0) / std, bounded / (1 - (bounded / LARGEST).abs())])
        if hasattr(self, "linear"):
            nn.init.zeros_(self.linear.weight)
            self.linear.bias.copy_(start)
        else:
            for parameter, value in zip(self.phi, start.chunk(2), strict=True):
                parameter.copy_(value)


@dataclass(frozen=True)
class ActNorm(FlowSpec):
    """A layer that scales and shifts each dimension, u = exp(s) ⊙ z + t; log|det ∂u/∂z| = Σ s_i.

    It starts as the identity. Its transform has `start_from(batch)`, the data-dependent initialization of the paper,
    which is never implicit. Alone it is neither a useful prior nor a useful guide.

    References:
        Kingma & Dhariwal (2018), "Glow: Generative Flow with Invertible 1x1 Convolutions".

    >>> layer = ActNorm().transform(features=2)
    >>> z = torch.tensor([[1.0, 0.0], [3.0, 10.0]])
    >>> layer.start_from(z)
    >>> layer()(z).round(decimals=4).tolist()
    [[-1.0, -1.0], [1.0, 1.0]]
    """

    title: ClassVar[str] = "activation normalization"
    paper: ClassVar[str] = "Kingma & Dhariwal 2018"
    roles: ClassVar[tuple[str, ...]] = ()
    why_not: ClassVar[str] = "it is a layer for use between others, and alone its dimensions stay independent"
    least_features: ClassVar[int] = 1

    def transform(self, features: int, context: int = 0) -> LazyTransform:
        self.check_features(features)
        return ActNormTransform(features, context)

    def cost(self, features: int) -> Cost:
        return Cost(density=0, sample=0, sample_and_density=0)
