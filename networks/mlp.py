"""Multilayer perceptrons: the trunk of an encoder, and a decoder."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from flowvae.core.errors import check_bool, check_widths

__all__ = ["MLP", "Standardize"]


@dataclass(frozen=True)
class MLP:
    """Fully connected layers with ReLU, or gated: (Wx + b) ⊙ sigmoid(Vx + c).

    Args:
        hidden_features: widths of the hidden layers.
        gated: whether each hidden layer is gated, which doubles its parameters.

    References:
        Dauphin, Fan, Auli & Grangier (2017), "Language Modeling with Gated Convolutional Networks".
    """

    hidden_features: tuple[int, ...] = (128, 128)
    gated: bool = False

    def __post_init__(self) -> None:
        check_widths(self, "hidden_features")
        check_bool(self, "gated")

    def trunk(self, inputs: int) -> tuple[nn.Sequential, int]:
        """The hidden layers alone, (..., inputs) → (..., width), and that width."""
        layers: list[nn.Module] = []
        for before, after in pairwise((inputs, *self.hidden_features)):
            layers += [nn.Linear(before, 2 * after), nn.GLU()] if self.gated else [nn.Linear(before, after), nn.ReLU()]
        return nn.Sequential(*layers), self.hidden_features[-1]

    def network(self, inputs: int, outputs: int) -> nn.Sequential:
        """Hidden layers and a linear output, (..., inputs) → (..., outputs)."""
        layers, width = self.trunk(inputs)
        return layers.append(nn.Linear(width, outputs))


class Standardize(nn.Module):
    """Data in the units in which networks learn well: (x − center) / unit, shape (..., D)."""

    center: Tensor
    unit: Tensor

    def __init__(self, center: Tensor, unit: Tensor) -> None:
        super().__init__()
        self.register_buffer("center", center.clone())
        self.register_buffer("unit", unit.clone())

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.center) / self.unit
