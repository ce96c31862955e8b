"""Networks with a bounded Lipschitz constant."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Size, Tensor, nn

from flowvae.core.errors import FlowvaeError, check_number, check_widths, shown
from flowvae.core.parts import NetworkSpec
from flowvae.networks.mlp import ConcatCondition

__all__ = ["Lipschitz"]


@dataclass(frozen=True)
class Lipschitz(NetworkSpec, name="lipschitz"):
    """A multilayer perceptron that is L-Lipschitz in the Euclidean norm for all parameters.

    Every weight matrix W acts as W / max(1, ‖W‖), with ‖W‖ its largest singular value, computed in every call, and the
    output is multiplied by L. The activation sorts pairs of numbers (MaxMin), which preserves the norm of gradients, so
    that the network can approximate any L-Lipschitz function; with ReLU it could not. Inputs of any event shape are
    flattened; a condition is concatenated.

    Args:
        hidden_features: even widths of the hidden layers.
        bound: L.

    Raises:
        FlowvaeError: for odd widths, or settings out of range.

    References:
        Anil, Lucas & Grosse (2019), "Sorting Out Lipschitz Function Approximation".
    """

    hidden_features: tuple[int, ...] = (128, 128)
    bound: float = 1.0

    def __post_init__(self) -> None:
        check_widths(self, "hidden_features")
        check_number(self, "bound")
        if any(width % 2 for width in self.hidden_features):
            raise FlowvaeError(f"Lipschitz.hidden_features = {shown(self.hidden_features)}: must be even widths.")

    def build(self, inputs: Size, outputs: Size | None = None, context: int = 0) -> nn.Module:
        layers: list[nn.Module] = [nn.Flatten(-len(inputs))] if len(inputs) > 1 and not context else []
        for before, after in pairwise((math.prod(inputs) + context, *self.hidden_features)):
            layers += [BoundedLinear(before, after), MaxMin()]
        if outputs is not None:
            layers.append(BoundedLinear(self.hidden_features[-1], math.prod(outputs)))
        layers.append(Scale(self.bound))
        if outputs is not None and len(outputs) != 1:
            layers.append(nn.Unflatten(-1, outputs))
        network: nn.Module = nn.Sequential(*layers)
        if context:
            network = ConcatCondition(network, len(inputs))
        network.inputs = Size(inputs)  # type: ignore[assignment]
        return network


class BoundedLinear(nn.Linear):
    """A linear layer (..., D) → (..., E) whose matrix has a spectral norm of at most 1."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (torch's name)
        norm = torch.linalg.matrix_norm(self.weight, 2).clamp_min(1)
        return nn.functional.linear(input, self.weight / norm, self.bias)


class Scale(nn.Module):
    """Multiply by a constant."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


class MaxMin(nn.Module):
    """Sort each pair of numbers, (..., 2n) → (..., 2n)."""

    def forward(self, x: Tensor) -> Tensor:
        one, other = x.unflatten(-1, (-1, 2)).unbind(-1)
        return torch.stack((torch.minimum(one, other), torch.maximum(one, other)), -1).flatten(-2)
