"""Multilayer perceptrons, and the standardization of their inputs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Size, Tensor, nn

from flowvae.core.errors import check_bool, check_widths
from flowvae.core.parts import NetworkSpec

__all__ = ["MLP", "ConcatCondition", "Standardize", "StandardizeCounts", "Standardized"]


@dataclass(frozen=True)
class MLP(NetworkSpec, name="mlp"):
    """Fully connected layers with ReLU, or gated: (Wx + b) ⊙ sigmoid(Vx + c).

    Inputs and outputs of any event shape are flattened inside. A condition is concatenated with the input.

    Args:
        hidden_features: widths of the hidden layers.
        gated: whether each hidden layer is gated, which doubles its parameters.

    Raises:
        FlowvaeError: for settings out of range.

    References:
        Dauphin, Fan, Auli & Grangier (2017), "Language Modeling with Gated Convolutional Networks".

    >>> decoder = MLP((64,)).build(Size((8,)), Size((1, 28, 28)))
    >>> decoder(torch.zeros(5, 8)).shape
    torch.Size([5, 1, 28, 28])
    """

    hidden_features: tuple[int, ...] = (128, 128)
    gated: bool = False

    def __post_init__(self) -> None:
        check_widths(self, "hidden_features")
        check_bool(self, "gated")

    def build(self, inputs: Size, outputs: Size | None = None, context: int = 0) -> nn.Module:
        """Build the network, (..., *inputs) → (..., *outputs).

        Args:
            inputs: event shape of the inputs.
            outputs: event shape of the outputs; None: the last hidden layer, (..., width), without a linear output.
            context: size of a condition that it also reads (0: none); the module is then called with (inputs,
                condition).
        """
        layers: list[nn.Module] = [nn.Flatten(-len(inputs))] if len(inputs) > 1 and not context else []
        for before, after in pairwise((math.prod(inputs) + context, *self.hidden_features)):
            layers += [nn.Linear(before, 2 * after), nn.GLU()] if self.gated else [nn.Linear(before, after), nn.ReLU()]
        if outputs is not None:
            layers.append(nn.Linear(self.hidden_features[-1], math.prod(outputs)))
            if len(outputs) != 1:
                layers.append(nn.Unflatten(-1, outputs))
        network: nn.Module = nn.Sequential(*layers)
        if context:
            network = ConcatCondition(network, len(inputs))
        network.inputs = Size(inputs)  # type: ignore[assignment]
        return network


class ConcatCondition(nn.Module):
    """A network of an input (..., *inputs), flattened, concatenated with a condition (..., C).

    Args:
        network: network that takes (..., D + C).
        event_dims: number of axes of an input.
    """

    def __init__(self, network: nn.Module, event_dims: int) -> None:
        super().__init__()
        self.network = network
        self.event_dims = event_dims

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        flat = x if self.event_dims == 1 else x.flatten(-self.event_dims)
        return self.network(torch.cat((flat, condition.expand(*flat.shape[:-1], -1)), dim=-1))


class Standardize(nn.Module):
    """Standardization of data, (x − center) / unit, shape (..., *event shape)."""

    center: Tensor
    unit: Tensor

    def __init__(self, center: Tensor, unit: Tensor) -> None:
        super().__init__()
        self.register_buffer("center", center.clone())
        self.register_buffer("unit", unit.clone())

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.center) / self.unit


class StandardizeCounts(Standardize):
    """Standardized log-counts, (log(1 + x) − log(1 + center)) / s with s = min(unit / (1 + center), 1).

    By the delta method, unit / (1 + center) is the standard deviation of log(1 + x) for a small unit. The logarithm
    keeps counts with a heavy tail, such as those of gene expression, in a range that networks can be trained on.
    """

    scale: Tensor

    def __init__(self, center: Tensor, unit: Tensor) -> None:
        super().__init__(center, unit)
        self.register_buffer("scale", (unit / (1 + center)).clamp(max=1.0))

    def forward(self, x: Tensor) -> Tensor:
        return (x.log1p() - self.center.log1p()) / self.scale


class Standardized(nn.Sequential):
    """A network with standardized inputs, (N, *event shape) → (N, *outputs); a condition is passed on unchanged."""

    def __init__(self, standardize: Standardize, network: nn.Module) -> None:
        super().__init__(standardize, network)

    def forward(self, x: Tensor, *condition: Tensor) -> Tensor:
        standardize, network = self
        return network(standardize(x), *condition)
