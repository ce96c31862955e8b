"""Residual networks against torch's functions, and their settings."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Size, Tensor, nn
from torch.nn import functional as F

from flowvae import FlowvaeError
from flowvae.networks import ResNet


@pytest.mark.parametrize(("name", "activation"), [("relu", F.relu), ("elu", F.elu)])
def test_a_residual_block_by_hand(name: str, activation: Callable[[Tensor], Tensor]) -> None:
    network = ResNet((4,), 5, blocks=1, normalization="none", activation=name).build(Size((1, 6, 6)))  # type: ignore[arg-type]
    w, b, w1, b1, w2, b2, v, a = network.parameters()
    x = torch.randn(3, 1, 6, 6)
    h = F.conv2d(x, w, b, stride=2, padding=1)
    h = h + F.conv2d(activation(F.conv2d(activation(h), w1, b1, padding=1)), w2, b2, padding=1)
    torch.testing.assert_close(network(x), activation(activation(h).flatten(1) @ v.T + a))


def sides(network: nn.Module, x: Tensor) -> list[int]:
    """Height of the output of each convolution."""
    found: list[int] = []
    hooks = [
        layer.register_forward_hook(lambda _, __, out: found.append(out.shape[-2]))
        for layer in network.modules()
        if isinstance(layer, nn.Conv2d)
    ]
    network(x)
    for hook in hooks:
        hook.remove()
    return found


def test_a_stem_is_a_map_of_the_size_of_the_image_with_blocks() -> None:
    image = Size((1, 28, 20))
    plain, stem = (ResNet((4, 5), 6, blocks=1, stem=channels) for channels in (0, 3))
    x, z = torch.randn(1, *image), torch.randn(1, 2)
    assert sides(plain.build(image), x) == [14] * 3 + [7] * 3
    assert sides(stem.build(image), x) == [28] * 3 + [14] * 3 + [7] * 3
    # the last convolution gives the image
    assert sides(plain.build(Size((2,)), image), z) == [7] * 2 + [14] * 3 + [28]
    assert sides(stem.build(Size((2,)), image), z) == [7] * 2 + [14] * 3 + [28] * 4


def test_blocks_can_start_as_the_identity() -> None:
    network = ResNet((4,), blocks=2, normalization="group", zero_init=True).build(Size((1, 6, 6)))
    h = torch.randn(2, 4, 3, 3)
    for block in list(network)[1:3]:
        assert torch.equal(block(h), h)
        block(h).square().sum().backward()
    first = [value for name, value in network.named_parameters() if "residual.5.weight" in name]
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in first)
    assert len(first) == 2


def test_dropout_is_noise_in_training_only() -> None:
    network = ResNet((4,), blocks=1, dropout=0.5).build(Size((1, 6, 6)))
    x = torch.randn(2, 1, 6, 6)
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))


@pytest.mark.parametrize(
    ("settings", "values"),
    [
        ({"blocks": 0}, ["ResNet.blocks = 0"]),
        ({"normalization": "batch"}, ["'batch'", "group"]),
        ({"activation": "gelu"}, ["'gelu'", "elu"]),
        ({"stem": -1}, ["ResNet.stem = -1"]),
        ({"dropout": 1.0}, ["ResNet.dropout = 1"]),
        ({"dropout": -0.1}, ["ResNet.dropout = -0.1"]),
        ({"zero_init": "yes"}, ["ResNet.zero_init = 'yes'"]),
    ],
)
def test_mistakes_are_named(settings: dict[str, object], values: list[str]) -> None:
    with pytest.raises(FlowvaeError) as caught:
        ResNet(**settings)  # type: ignore[arg-type]
    assert all(value in str(caught.value) for value in values)
