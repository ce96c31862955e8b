"""Leading axes are folded into one, and modules that break the contract are refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Size, Tensor, nn

from flowvae import FlowvaeError
from flowvae.networks import MLP, Conv, MixedBatchWarning, ResNet, check_network, fold

IMAGE, CODE = Size((2, 4, 4)), Size((3,))


class Own(nn.Module):
    """A module from a function of its inputs and its weights."""

    def __init__(self, function: Callable[..., object], layer: nn.Module | None = None) -> None:
        super().__init__()
        self.function = function
        self.layer = layer or nn.Linear(3, 2)
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, *inputs: Tensor) -> object:
        self.shapes += [tuple(part.shape) for part in inputs]
        return self.function(self.layer, *inputs)


@pytest.mark.parametrize("leading", [(), (1,), (5,), (2, 5), (4, 2, 5), (0, 5)], ids=str)
def test_every_data_point_gets_what_it_gets_alone(leading: tuple[int, ...]) -> None:
    network = Conv((4,), 6).build(IMAGE)
    x = torch.randn(*leading, *IMAGE)
    out = fold(network, x, 3)
    assert out.shape == (*leading, 6)
    for index in torch.cartesian_prod(*map(torch.arange, leading)).reshape(-1, len(leading)) if leading else []:
        torch.testing.assert_close(out[tuple(index)], network(x[tuple(index)][None])[0])
    if not leading:
        torch.testing.assert_close(out, network(x[None])[0])


@pytest.mark.parametrize("spec", [MLP((6,)), Conv((4,), 6), ResNet((4,), 6)], ids=["mlp", "conv", "resnet"])
@pytest.mark.parametrize("leading", [(5,), (2, 5), (4, 2, 5)], ids=str)
def test_the_condition_goes_with_its_data_point(spec: MLP, leading: tuple[int, ...]) -> None:
    network = spec.build(IMAGE, Size((2, 2)), 3)
    x, c = torch.randn(*leading, *IMAGE), torch.randn(5, 3)
    out = fold(network, x, 3, c)
    assert out.shape == (*leading, 2, 2)
    for i in range(5):
        rows = x[..., i, :, :, :].reshape(-1, *IMAGE)
        expected = network(rows, c[i].expand(len(rows), 3)).reshape(*leading[:-1], 2, 2)
        torch.testing.assert_close(out[..., i, :, :], expected)


def test_the_network_sees_one_batch_axis() -> None:
    network = Own(lambda layer, z: layer(z))
    fold(network, torch.zeros(7, 5, 3), 1)
    x = torch.zeros(5, 3)
    assert fold(network, x, 1).shape == (5, 2)
    assert network.shapes == [(35, 3), (5, 3)]


def test_the_gradient_is_that_of_the_network() -> None:
    network = MLP((6,)).build(CODE, IMAGE)
    x = torch.randn(4, 5, 3, requires_grad=True)
    (one,) = torch.autograd.grad(fold(network, x, 1).square().sum(), x)
    (other,) = torch.autograd.grad(network(x.reshape(20, 3)).square().sum(), x)
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("leading", [(8,), (2, 4)], ids=str)
@pytest.mark.parametrize(
    ("function", "given"),
    [
        (lambda layer, z: layer(z).sum(0), "(2,)"),
        (lambda layer, z: layer(z).mean(0, keepdim=True), "(1, 2)"),
        (lambda layer, z: layer(z).flatten(), "(16,)"),
        (lambda layer, z: (layer(z), z), "tuple"),
    ],
)
def test_lost_data_points_are_noticed_in_use(
    leading: tuple[int, ...], function: Callable[..., object], given: str
) -> None:
    with pytest.raises(FlowvaeError) as caught:
        fold(Own(function), torch.randn(*leading, 3), 1)
    assert all(value in str(caught.value) for value in ("Own", given, "(8, 3)", "(N, *outputs)"))


WRONG: dict[str, tuple[Callable[..., object], list[str]]] = {
    "naive flattening": (lambda layer, x: layer(x.flatten().reshape(-1, 3)), ["(32, 2)", "flatten(1)"]),
    "one channel a row": (lambda layer, x: layer(x.flatten(0, 1).flatten(1)[:, :3]), ["(6, 2)", "flatten(1)"]),
    "one point lost": (lambda layer, x: layer(x.flatten(1)[1:, :3]), ["(2, 2)", "flatten(1)"]),
    "another shape": (lambda layer, x: layer(x.flatten(1)[:, :3])[:, :1], ["(3, 1)", "(N, 2)"]),
    "no features": (lambda layer, x: x.flatten(1).sum(1), ["(3,)", "(N, 2)"]),
    "its own error": (lambda layer, x: layer(x.flatten(1)), ["RuntimeError", "3x32", "(3, 2, 4, 4)", "(N, 2)"]),
    "takes a condition": (lambda layer, x, c: layer(c), ["TypeError", "(N, 2)"]),
    "a tuple": (lambda layer, x: (layer(x.flatten(1)[:, :3]), x), ["tensor", "(N, 2)"]),
    "none": (lambda layer, x: None, ["None", "(N, 2)"]),
    "whole numbers": (lambda layer, x: layer(x.flatten(1)[:, :3]).long(), ["int64"]),
    "the mean of the batch": (lambda layer, x: layer(x.flatten(1)[:, :3] - x.mean((0, 1, 2))[:3]), ["flatten(1)"]),
    "in another order": (lambda layer, x: layer(x.flatten(1)[:, :3]).flip(0), ["flatten(1)"]),
    "mixed by flattening": (lambda layer, x: layer(x.flatten()[:9].reshape(3, 3)), ["flatten(1)"]),
    "statistics of the batch": (
        lambda layer, x: nn.functional.batch_norm(layer(x.flatten(1)[:, :3]), None, None, training=True),
        ["one input alone", "GroupNorm"],
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_module_that_breaks_the_contract_is_refused(name: str) -> None:
    function, values = WRONG[name]
    with pytest.raises(FlowvaeError) as caught:
        check_network("encoder", Own(function), IMAGE, Size((2,)))
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    assert all(value in text for value in ["encoder", "Own", "(N, 2, 4, 4)", *values])


def test_normalization_by_the_batch_is_refused_and_in_training_only_it_is_warned_of() -> None:
    for tracked in (True, False):
        network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, track_running_stats=tracked), nn.Linear(4, 2))
        if tracked:
            before = {name: value.clone() for name, value in network.state_dict().items()}
            with pytest.warns(MixedBatchWarning, match=r"encoder.*GroupNorm"):
                assert check_network("encoder", network, CODE) == (2,)
            assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
            assert network.training
        else:
            with pytest.raises(FlowvaeError, match="GroupNorm"):
                check_network("encoder", network, CODE)


def test_what_is_random_or_changes_in_training_mode_alone_is_no_mixture() -> None:
    """Warnings are errors here."""
    layers = nn.Dropout(0.5), nn.GroupNorm(2, 4), nn.LayerNorm(4), nn.AlphaDropout(0.5)
    spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))
    for layer in (*layers, spectral):
        network = nn.Sequential(nn.Linear(3, 4), layer, nn.Linear(4, 2))
        before = {name: value.clone() for name, value in network.state_dict().items()}
        assert check_network("encoder", network, CODE) == (2,)
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    convolution = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(1))
    with pytest.warns(MixedBatchWarning, match="in training mode"):
        check_network("encoder", convolution, IMAGE)


def test_the_condition_is_part_of_the_contract() -> None:
    network = Own(lambda layer, x, c: layer(c) + x.flatten(1).sum(1, keepdim=True))
    assert check_network("decoder", network, IMAGE, Size((2,)), context=3) == (2,)
    with pytest.raises(FlowvaeError, match=r"decoder.*\(N, 2, 4, 4\) and a condition \(N, 5\)"):
        check_network("decoder", network, IMAGE, Size((2,)), context=5)
    with pytest.raises(FlowvaeError, match=r"TypeError.*\(N, 2, 4, 4\)"):
        check_network("decoder", network, IMAGE, Size((2,)))


def test_a_module_that_keeps_the_contract_says_its_shape() -> None:
    assert check_network("encoder", nn.Sequential(nn.Flatten(), nn.Linear(32, 5)), IMAGE) == (5,)
    assert check_network("encoder", nn.Conv2d(2, 3, 2), IMAGE) == (3, 3, 3)
    assert check_network("encoder", nn.Linear(3, 2).double(), CODE, Size((2,))) == (2,)
    assert check_network("encoder", nn.Identity(), CODE, CODE) == (3,)


def test_a_large_constant_does_not_hide_a_mixture() -> None:
    """The differences between data points count, not the size of the outputs."""
    network = Own(lambda layer, x: 1000 + layer(x - 0.2 * x.mean(0)))
    with pytest.raises(FlowvaeError, match=r"flatten\(1\)"):
        check_network("encoder", network, CODE)
    assert check_network("encoder", Own(lambda layer, x: 1000 + layer(x)), CODE) == (2,)


def test_a_network_that_draws_random_numbers_is_taken() -> None:
    network = Own(lambda layer, x: layer(x + torch.randn_like(x)))
    assert check_network("encoder", network, CODE) == (2,)


def test_lazy_layers_get_their_shapes_from_the_seed() -> None:
    def weights(seed: int) -> Tensor:
        network = nn.Sequential(nn.Flatten(), nn.LazyLinear(5))
        torch.manual_seed(seed)
        assert check_network("encoder", network, IMAGE) == (5,)
        return network[1].weight.detach()

    assert weights(0).shape == (5, 32)
    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


def test_the_trial_leaves_random_numbers_alone() -> None:
    network = MLP((6,)).build(CODE, IMAGE)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    check_network("decoder", network, CODE, IMAGE)
    assert torch.equal(torch.rand(3), expected)
    assert all(parameter.grad is None for parameter in network.parameters())
