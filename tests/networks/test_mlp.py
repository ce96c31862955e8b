"""Multilayer perceptrons, plain and gated."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from flowvae import FlowvaeError
from flowvae.networks import MLP


def test_a_gated_layer_is_a_linear_map_times_a_sigmoid() -> None:
    torch.manual_seed(0)
    trunk, width = MLP((5,), gated=True).trunk(3)
    x = torch.randn(7, 3)
    linear = trunk[0]
    assert isinstance(linear, nn.Linear)
    value, gate = (x @ linear.weight.T + linear.bias).split(5, dim=-1)
    torch.testing.assert_close(trunk(x), value / (1 + (-gate).exp()))
    assert width == 5


@pytest.mark.parametrize("gated", [False, True])
def test_layers_have_the_widths_that_were_asked_for(gated: bool) -> None:
    network = MLP((6, 4), gated).network(3, 2)
    halves = 2 if gated else 1
    shapes = [tuple(layer.weight.shape) for layer in network if isinstance(layer, nn.Linear)]
    assert shapes == [(6 * halves, 3), (4 * halves, 6), (2, 4)]
    assert network(torch.zeros(5, 3)).shape == (5, 2)


def test_gated_is_true_or_false() -> None:
    with pytest.raises(FlowvaeError, match=r"MLP\.gated = 'no': must be true or false"):
        MLP((6,), "no")  # type: ignore[arg-type]
