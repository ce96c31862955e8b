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

__all__ = ["WaveNet"]


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
        kernel: taps of a convolution.

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
        """The number of values before x_i on which its distribution depends.

        >>> WaveNet(dilations=(1, 2, 4)).receptive_field
        8
        """
        return 1 + (self.kernel - 1) * sum(self.dilations)

    def build(self, shape: Size, parameters: int, context: int = 0) -> CausalNetwork:
        return _WaveNet(self, math.prod(shape), parameters, context)


class _WaveNet(CausalNetwork):
    def __init__(self, spec: WaveNet, features: int, parameters: int, context: int) -> None:
        super().__init__(features, parameters, context)
        channels = spec.channels
        self.input = nn.Conv1d(1, channels, 1)
        self.place = nn.Parameter(torch.zeros(channels, features))
        self.layers = nn.ModuleList(
            _Layer(channels, spec.kernel, dilation, context, last=number == len(spec.dilations))
            for number, dilation in enumerate(spec.dilations, start=1)
        )
        self.output = nn.Sequential(
            nn.ReLU(), nn.Conv1d(channels, channels, 1), nn.ReLU(), nn.Conv1d(channels, parameters, 1)
        )

    def rows(self, x: Tensor, context: Tensor | None) -> Tensor:
        h = self.input(F.pad(x[:, None, :-1], (1, 0))) + self.place
        skips = torch.zeros_like(h)
        for layer in self.layers:
            h, skip = layer(h, context)
            skips = skips + skip
        return self.output(skips).transpose(1, 2)


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
