"""Plain convolutional networks against torch's functions."""

from __future__ import annotations

import torch
from torch import Size
from torch.nn import functional as F

from flowvae.networks import Conv


def test_an_encoder_and_a_decoder_by_hand() -> None:
    """One feature map."""
    encoder = Conv((3,), 4).build(Size((2, 5, 6)))
    w, b, v, a = encoder.parameters()
    x = torch.randn(7, 2, 5, 6)
    h = F.conv2d(x, w, b, stride=2, padding=1).relu()
    assert h.shape == (7, 3, 3, 3)
    torch.testing.assert_close(encoder(x), (h.flatten(1) @ v.T + a).relu())
    decoder = Conv((3,)).build(Size((4,)), Size((2, 5, 6)))
    v, a, w, b = decoder.parameters()
    z = torch.randn(7, 4)
    h = (z @ v.T + a).reshape(7, 3, 3, 3).relu()
    rows, columns = torch.arange(5) * 3 // 5, torch.arange(6) * 3 // 6  # the nearest place of the smaller map
    torch.testing.assert_close(decoder(z), F.conv2d(h[:, :, rows][..., columns], w, b, padding=1))
