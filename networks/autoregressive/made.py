"""MADE: masked autoencoder, autoregressive by masks on its weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Size, Tensor, nn
from zuko.nn import MaskedLinear

from flowvae.core.errors import check_widths
from flowvae.networks.autoregressive.causal import CausalNetwork, CausalSpec

__all__ = ["MADE"]


@dataclass(frozen=True)
class MADE(CausalSpec, name="made"):
    """Masked multilayer perceptron: every unit has a degree, and reads only units of at most this degree.

    The context has degree 0, x_j degree j (counted from 1), hidden units degrees up to D − 1, and the parameters of
    x_i degree i − 1; a weight is kept if degree(to) ≥ degree(from). Degrees are spread evenly over a layer. A layer
    narrower than D − 1 lacks some degrees, and some outputs then do not depend on their last predecessors; direct
    connections from input to output (section 4.2 of the paper) keep a linear dependence on them.

    Args:
        hidden_features: widths of the hidden layers; with D or more no output loses a predecessor.

    Raises:
        FlowvaeError: for widths out of range.

    References:
        Germain et al. (2015), "MADE: masked autoencoder for distribution estimation".
    """

    title: ClassVar[str] = "masked autoencoder"
    paper: ClassVar[str] = "Germain et al. 2015"

    hidden_features: tuple[int, ...] = (256,)

    def __post_init__(self) -> None:
        check_widths(self, "hidden_features")

    def build(self, shape: Size, parameters: int, context: int = 0) -> CausalNetwork:
        return _MADE(self, math.prod(shape), parameters, context)


class _MADE(CausalNetwork):
    def __init__(self, spec: MADE, features: int, parameters: int, context: int) -> None:
        super().__init__(features, parameters, context)
        inputs = torch.cat((torch.arange(1, features + 1), torch.zeros(context, dtype=torch.long)))
        outputs = torch.arange(features).repeat_interleave(parameters)
        # without a context, a unit of degree 0 would have no inputs
        least = min(0 if context else 1, features - 1)
        hidden = [torch.linspace(least, features - 1, width).round().long() for width in spec.hidden_features]
        layers: list[nn.Module] = []
        for before, after in pairwise((inputs, *hidden)):
            layers += [_masked(before, after), nn.ReLU()]
        self.hidden = nn.Sequential(*layers)
        self.output = _masked(hidden[-1], outputs)
        self.direct = _masked(inputs, outputs, bias=False)

    def rows(self, x: Tensor, context: Tensor | None) -> Tensor:
        inputs = x if context is None else torch.cat((x, context), dim=-1)
        return self.output(self.hidden(inputs)) + self.direct(inputs)


def _masked(before: Tensor, after: Tensor, bias: bool = True) -> MaskedLinear:
    """Make a masked linear layer between units with these degrees."""
    return MaskedLinear(after[:, None] >= before, bias=bias)
