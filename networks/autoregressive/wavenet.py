"""WaveNet: causal dilated convolutions along the raster order."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Size, Tensor, nn
from torch.nn import functional as F

from flowvae.core.errors import check_int, check_widths
from flowvae.networks.autoregressive.causal import CausalNetwork, CausalSpec, gated

__all__ = ["CausalSequence", "WaveNet"]

Cache = list[list[Tensor]]  # inputs of each layer, (N, channels) for each step so far


@dataclass(frozen=True)
class WaveNet(CausalSpec, name="wavenet"):
    """Causal dilated 1-D convolutions with gated activations, residual and skip connections.

    The input is shifted by one position, and layer l adds to h

        W_l ∗ (tanh(F_l ∗ h + V_l c) ⊙ σ(G_l ∗ h + U_l c)),

    where ∗ is a causal convolution with the layer's dilation and c is the context, if there is one. The receptive
    field is finite: x_i depends on the `receptive_field` values before it. Convolutions treat all positions alike,
    but the positions of data of a fixed size differ (the corner of an image is background), so a learned vector
    for each position is added to the first layer.

    Args:
        channels: width of every layer.
        dilations: dilations of the layers; doubling them from layer to layer makes the receptive field grow
            exponentially.
        kernel: kernel size of the convolutions, two or more.

    Raises:
        FlowvaeError: for settings out of range.

    References:
        van den Oord et al. (2016), "WaveNet: a generative model for raw audio".
    """

    title: ClassVar[str] = "causal dilated 1-D convolutions"
    paper: ClassVar[str] = "van den Oord et al. 2016"

    channels: int = 32
    dilations: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    kernel: int = 2

    def __post_init__(self) -> None:
        check_int(self, "channels")
        check_widths(self, "dilations")
        check_int(self, "kernel", least=2)

    @property
    def receptive_field(self) -> int:
        """Number of values before x_i on which its distribution depends.

        >>> WaveNet(dilations=(1, 2, 4)).receptive_field
        8
        """
        return 1 + (self.kernel - 1) * sum(self.dilations)

    def build(self, shape: Size, parameters: int, context: int = 0) -> CausalNetwork:
        return self.network(math.prod(shape), 1, parameters, context)

    def network(self, steps: int, numbers: int, parameters: int, context: int = 0) -> CausalSequence:
        """Build the network of sequences of T steps of C numbers; all numbers of an earlier step are read.

        Args:
            steps: T.
            numbers: C, the number of values per step.
            parameters: P, the number of outputs per step.
            context: width of a context for all steps; 0: none.
        """
        return CausalSequence(self, steps, numbers, parameters, context)


class CausalSequence(CausalNetwork):
    """A network of sequences, whose outputs at a step depend on the steps before it.

    Args:
        spec: settings of the network.
        features: T, the number of steps.
        numbers: C, the number of values per step.
        parameters: P, the number of outputs per step.
        context: width of the context; 0: none.
    """

    def __init__(self, spec: WaveNet, features: int, numbers: int, parameters: int, context: int) -> None:
        super().__init__(features, parameters, context)
        channels = spec.channels
        self.input = nn.Conv1d(numbers, channels, 1)
        self.place = nn.Parameter(torch.zeros(channels, features))
        self.layers = nn.ModuleList(
            _Layer(channels, spec.kernel, dilation, context, last=number == len(spec.dilations))
            for number, dilation in enumerate(spec.dilations, start=1)
        )
        self.output = nn.Sequential(
            nn.ReLU(), nn.Conv1d(channels, channels, 1), nn.ReLU(), nn.Conv1d(channels, parameters, 1)
        )

    def rows(self, x: Tensor, context: Tensor | None) -> Tensor:
        return self.sequences(x.unsqueeze(-1), context)

    def sequences(self, x: Tensor, context: Tensor | None) -> Tensor:
        """Compute the outputs (N, T, P) from sequences (N, T, C) and context, in one pass."""
        h = self.input(F.pad(x.transpose(1, 2)[..., :-1], (1, 0))) + self.place
        skips = torch.zeros_like(h)
        for layer in self.layers:
            h, skip = layer(h, context)
            skips = skips + skip
        return self.output(skips).transpose(1, 2)

    def step(self, place: int, before: Tensor, context: Tensor | None, cache: Cache) -> Tensor:
        """Compute the output (N, P) of one step, from the step before it and the cache, which it extends.

        Args:
            place: index of the step.
            before: the step before it, (N, C); zeros for the first one.
            context: as for `sequences`.
            cache: one empty list for each layer at the first step.
        """
        h = _pointwise(self.input, before) + self.place[:, place]
        skips = torch.zeros_like(h)
        for layer, past in zip(self.layers, cache, strict=True):
            assert isinstance(layer, _Layer)
            h, skip = layer.step(h, context, past)
            skips = skips + skip
        out: Tensor = self.output(skips.unsqueeze(-1)).squeeze(-1)
        return out


class _Layer(nn.Module):
    """Gated layer, (N, channels, D) → residual and skip outputs of the same shape."""

    def __init__(self, channels: int, kernel: int, dilation: int, context: int, last: bool) -> None:
        super().__init__()
        self.past = (kernel - 1) * dilation
        self.convolution = nn.Conv1d(channels, 2 * channels, kernel, dilation=dilation)
        self.context = nn.Linear(context, 2 * channels, bias=False) if context else None
        self.skip = nn.Conv1d(channels, channels, 1)
        self.residual = None if last else nn.Conv1d(channels, channels, 1)  # the last layer has no successor

    def forward(self, h: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        gates = self.convolution(F.pad(h, (self.past, 0)))
        if self.context is not None:
            gates = gates + self.context(context)[:, :, None]
        out = gated(gates)
        return h if self.residual is None else h + self.residual(out), self.skip(out)

    def step(self, h: Tensor, context: Tensor | None, past: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Compute the outputs (N, channels) of one step, and append its input to those of earlier steps."""
        past.append(h)
        gates = self.convolution.bias
        assert gates is not None
        for tap in range(self.convolution.kernel_size[0]):
            back = len(past) - 1 - tap * self.convolution.dilation[0]
            if back >= 0:  # the padding before the first step is zero
                gates = gates + F.linear(past[back], self.convolution.weight[..., -1 - tap])
        if self.context is not None:
            gates = gates + self.context(context)
        out = gated(gates)
        return h if self.residual is None else h + _pointwise(self.residual, out), _pointwise(self.skip, out)


def _pointwise(layer: nn.Conv1d, h: Tensor) -> Tensor:
    """Apply a convolution with a kernel of one step to one step, (N, channels)."""
    return F.linear(h, layer.weight.squeeze(-1), layer.bias)
