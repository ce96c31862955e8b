"""Gated convolutional networks against the layers of the paper, written out for 28×28."""

from __future__ import annotations

import torch
from torch import Size, Tensor, nn

from flowvae.networks import GatedConv

LATENT = 64


class Gate(nn.Module):
    """Two convolutions, one of which is the gate."""

    def __init__(self, kind: type[nn.Conv2d] | type[nn.ConvTranspose2d], *settings: int) -> None:
        super().__init__()
        self.value, self.gate = kind(*settings), kind(*settings)

    def forward(self, x: Tensor) -> Tensor:
        return self.value(x) * self.gate(x).sigmoid()


def published() -> tuple[nn.Sequential, nn.Sequential]:
    """Encoder and decoder: channels in and out, kernel, stride, padding (, output padding)."""
    encoder = nn.Sequential(
        Gate(nn.Conv2d, 1, 32, 5, 1, 2),
        Gate(nn.Conv2d, 32, 32, 5, 2, 2),
        Gate(nn.Conv2d, 32, 64, 5, 1, 2),
        Gate(nn.Conv2d, 64, 64, 5, 2, 2),
        Gate(nn.Conv2d, 64, 64, 5, 1, 2),
        Gate(nn.Conv2d, 64, 256, 7, 1, 0),
    )
    decoder = nn.Sequential(
        Gate(nn.ConvTranspose2d, LATENT, 64, 7, 1, 0),
        Gate(nn.ConvTranspose2d, 64, 64, 5, 1, 2),
        Gate(nn.ConvTranspose2d, 64, 32, 5, 2, 2, 1),
        Gate(nn.ConvTranspose2d, 32, 32, 5, 1, 2),
        Gate(nn.ConvTranspose2d, 32, 32, 5, 2, 2, 1),
        Gate(nn.ConvTranspose2d, 32, 32, 5, 1, 2),
        nn.Conv2d(32, 1, 1),
    )
    return encoder, decoder


def test_the_defaults_are_the_published_networks_at_28_by_28() -> None:
    """The same numbers of parameters, and with the same weights the same outputs."""
    image = Size((1, 28, 28))
    ours = GatedConv().build(image), GatedConv().build(Size((LATENT,)), image)
    inputs = torch.randn(2, *image), torch.randn(2, LATENT)
    for network, theirs, x in zip(ours, published(), inputs, strict=True):
        assert sum(p.numel() for p in network.parameters()) == sum(p.numel() for p in theirs.parameters())
        layers = [layer for layer in network if hasattr(layer, "weight")]
        with torch.no_grad():
            for layer, other in zip(layers, theirs, strict=True):
                parts = [other.value, other.gate] if isinstance(other, Gate) else [other]
                axis = int(isinstance(layer, nn.ConvTranspose2d))  # of output channels
                layer.weight.copy_(torch.cat([p.weight for p in parts], axis).reshape(layer.weight.shape))
                layer.bias.copy_(torch.cat([p.bias for p in parts]))
        expected = theirs(x if x.ndim == 4 else x[..., None, None])
        torch.testing.assert_close(network(x), expected.flatten(1) if x.ndim == 4 else expected)
