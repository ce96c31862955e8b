"""Multilayer perceptrons against networks that are built by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Size, nn

from flowvae import FlowvaeError
from flowvae.core.registry import find, name_of
from flowvae.networks import MLP, Standardize, StandardizeCounts, Standardized, input_shape

SHAPES = [Size((5,)), Size((1, 4, 4)), Size((3, 2, 5)), Size((2, 7))]


def by_hand(gated: bool, *widths: int, output: int | None) -> nn.Sequential:
    """The layers in the order in which their weights are drawn."""
    layers: list[nn.Module] = []
    for i in range(len(widths) - 1):
        layers.append(nn.Linear(widths[i], widths[i + 1] * (2 if gated else 1)))
        layers.append(nn.GLU() if gated else nn.ReLU())
    if output is not None:
        layers.append(nn.Linear(widths[-1], output))
    return nn.Sequential(*layers)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("outputs", [None, *SHAPES], ids=str)
@pytest.mark.parametrize("inputs", SHAPES, ids=str)
def test_the_same_seed_gives_the_weights_of_plain_layers(inputs: Size, outputs: Size | None, gated: bool) -> None:
    torch.manual_seed(3)
    network = MLP((6, 4), gated).build(inputs, outputs)
    torch.manual_seed(3)
    expected = by_hand(gated, math.prod(inputs), 6, 4, output=None if outputs is None else math.prod(outputs))
    for ours, theirs in zip(network.parameters(), expected.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    x = torch.randn(7, *inputs)
    out = expected(x.reshape(7, -1))
    assert torch.equal(network(x), out if outputs is None else out.reshape(7, *outputs))
    assert network(x.expand(2, 7, *inputs)).shape == (2, 7, *(outputs or (4,)))
    assert input_shape(network) == inputs


def test_flat_shapes_need_no_reshaping() -> None:
    """The training step of a flat network costs no more than its layers."""
    assert [type(layer) for layer in MLP((6,)).build(Size((5,)), Size((2,)))] == [nn.Linear, nn.ReLU, nn.Linear]


def test_a_gated_layer_is_a_linear_map_times_a_sigmoid() -> None:
    trunk = MLP((5,), gated=True).build(Size((3,)))
    x = torch.randn(7, 3)
    weight, bias = trunk.parameters()
    value, gate = (x @ weight.T + bias).split(5, dim=-1)
    torch.testing.assert_close(trunk(x), value / (1 + (-gate).exp()))


@pytest.mark.parametrize("inputs", SHAPES, ids=str)
def test_a_condition_is_concatenated(inputs: Size) -> None:
    torch.manual_seed(3)
    network = MLP((6,)).build(inputs, Size((2, 3)), context=4)
    torch.manual_seed(3)
    expected = by_hand(False, math.prod(inputs) + 4, 6, output=6)
    x, c = torch.randn(7, *inputs), torch.randn(7, 4)
    out = expected(torch.cat((x.flatten(1), c), 1)).reshape(7, 2, 3)
    assert torch.equal(network(x, c), out)
    torch.testing.assert_close(network(x.expand(5, 7, *inputs), c)[4], out)
    assert not torch.allclose(network(x, c), network(x, c + 1))
    assert input_shape(network) == inputs


@pytest.mark.parametrize("context", [0, 4])
def test_every_parameter_gets_a_gradient(context: int) -> None:
    network = MLP((16, 8), gated=True).build(Size((1, 4, 4)), Size((3,)), context)
    network(torch.randn(20, 1, 4, 4), *([torch.randn(20, context)] if context else [])).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("center", [torch.tensor(2.0), torch.arange(16.0).reshape(1, 4, 4)], ids=["scalar", "values"])
def test_standardized_data_reach_the_network_with_their_condition(center: torch.Tensor) -> None:
    network = MLP((6,)).build(Size((1, 4, 4)), context=2)
    whole = Standardized(Standardize(center, 0.5 * torch.ones_like(center)), network)
    x, c = torch.randn(5, 1, 4, 4), torch.randn(5, 2)
    assert torch.equal(whole(x, c), network((x - center) / 0.5, c))
    assert input_shape(whole) == (1, 4, 4)
    assert isinstance(whole[0], Standardize)
    assert [name for name, _ in whole.named_parameters()] == [f"1.{name}" for name, _ in network.named_parameters()]


def test_counts_of_any_mean_and_with_heavy_tails_reach_networks_in_a_small_range() -> None:
    generator = torch.Generator().manual_seed(0)
    for mean in (0.05, 1.0, 30.0, 5000.0):
        x = torch.poisson(torch.full((20000,), mean), generator)
        seen = StandardizeCounts(x.mean(), x.std())(x)
        assert abs(seen.mean()) < 0.25
        assert 0.6 < seen.std() < 1.3
    heavy = torch.poisson(torch.exp(2.5 * torch.randn(20000, generator=generator)), generator)
    assert heavy.max() > 1e4
    assert StandardizeCounts(heavy.mean(), heavy.std())(heavy).abs().max() < 10


def test_it_is_registered() -> None:
    assert find("network", "mlp").default == MLP()
    assert name_of(MLP((3,))) == "mlp"


def test_gated_is_true_or_false() -> None:
    with pytest.raises(FlowvaeError, match=r"MLP\.gated = 'no'"):
        MLP((6,), "no")  # type: ignore[arg-type]
