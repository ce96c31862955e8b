"""Every autoregressive network against autograd: what its outputs depend on, and what they do not."""

from __future__ import annotations

import pytest
import torch
from helpers import disturb
from torch import Size, Tensor

from flowvae import FlowvaeError
from flowvae.core.registry import find, name_of
from flowvae.networks import MADE, CausalNetwork, CausalSpec, PixelCNN, WaveNet

SHAPE = Size((1, 4, 6))
FLAT = Size((4,))
D, P, C = 24, 2, 3
NETWORKS: dict[str, CausalSpec] = {
    "made": MADE((40,)),
    "made-deep": MADE((30, 40)),
    "made-narrow": MADE((7, 5)),
    "wavenet": WaveNet(channels=8, dilations=(1, 2, 4, 8, 16)),
    "wavenet-kernel-3": WaveNet(channels=8, dilations=(1, 3, 9), kernel=3),
    "pixelcnn": PixelCNN(channels=8, layers=5),
    "pixelcnn-kernel-5": PixelCNN(channels=8, layers=3, kernel=5),
    "pixelcnn-masked": PixelCNN("masked", channels=8, layers=5),
    "pixelcnn-masked-kernel-5": PixelCNN("masked", channels=8, layers=3, kernel=5),
}
each_network = pytest.mark.parametrize("spec", NETWORKS.values(), ids=NETWORKS.keys())
each_context = pytest.mark.parametrize("context", [0, C], ids=["plain", "context"])


def build(spec: CausalSpec, context: int = 0, shape: Size = SHAPE) -> CausalNetwork:
    network = spec.build(shape, P, context)
    disturb(network, 0.3)
    return network


def dependencies(network: CausalNetwork) -> Tensor:
    """Entry (i, j): whether output i depends on x_j, at any of 6 random points."""
    features = network.features
    found = torch.zeros(features, features, dtype=torch.bool)
    for _ in range(6):
        context = torch.randn(network.context_features) if network.context_features else None
        x = torch.randn(features)
        jacobian = torch.autograd.functional.jacobian(lambda x, c=context: network(x, c), x)
        found |= (jacobian != 0).any(1)
    return found


def before(features: int = D) -> Tensor:
    return torch.ones(features, features, dtype=torch.bool).tril(-1)


def places(shape: Size) -> tuple[Tensor, Tensor]:
    """For every pair (i, j): how many rows pixel j is above i, and how many columns to its right."""
    _, height, width = shape
    index = torch.arange(height * width)
    row, column = index // width, index % width
    return row[:, None] - row, column - column[:, None]


@pytest.mark.usefixtures("float64")
@each_context
@each_network
def test_no_output_depends_on_its_own_value_or_a_later_one(spec: CausalSpec, context: int) -> None:
    found = dependencies(build(spec, context))
    assert not (found & ~before()).any()
    assert found.any()


@pytest.mark.usefixtures("float64")
@each_context
@each_network
def test_every_earlier_value_is_seen_but_in_the_blind_spot(spec: CausalSpec, context: int) -> None:
    expected = before()
    if isinstance(spec, PixelCNN) and spec.kind == "masked":
        up, right = places(SHAPE)
        expected &= right <= up * (spec.kernel // 2)
        assert expected.sum() < before().sum()
    assert torch.equal(dependencies(build(spec, context)), expected)


@pytest.mark.usefixtures("float64")
def test_more_layers_do_not_open_the_blind_spot() -> None:
    up, right = places(SHAPE)
    for layers in (5, 12):
        found = dependencies(build(PixelCNN("masked", channels=8, layers=layers)))
        assert torch.equal(found, before() & (right <= up))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("layers", "kernel"), [(1, 3), (2, 3), (1, 5)])
def test_a_shallow_pixelcnn_is_local(layers: int, kernel: int) -> None:
    shape = Size((1, 7, 9))
    up, right = places(shape)
    reach = layers * (kernel // 2)
    same_row = (up == 0) & (right >= -1 - reach)
    found = dependencies(build(PixelCNN(channels=8, layers=layers, kernel=kernel), shape=shape))
    rows_above = (up > 0) & (up <= 1 + reach) & (right <= reach)
    # pixels to the left reach further, through the horizontal stack
    assert not (found & ~before(63)).any()
    assert not (found & ~(same_row | rows_above)).any()
    assert torch.equal(found & (up == 0), before(63) & same_row)
    window = (up > 0) & (up <= 1 + reach) & (right.abs() <= reach)
    assert (found & window).sum() == window.sum()


@pytest.mark.usefixtures("float64")
def test_the_memory_of_a_wavenet_is_its_receptive_field() -> None:
    spec = WaveNet(channels=8, dilations=(1, 2))
    assert spec.receptive_field == 4
    found = dependencies(build(spec))
    assert torch.equal(found, before() & before().triu(-4))


@pytest.mark.parametrize("spec", [MADE((40,)), WaveNet(channels=8)], ids=["made", "wavenet"])
@pytest.mark.parametrize("shape", [Size((24,)), Size((2, 3, 4)), Size((4, 6))], ids=str)
def test_data_of_any_shape_are_read_in_raster_order(spec: CausalSpec, shape: Size) -> None:
    x = torch.randn(5, *shape).flatten(1)
    torch.manual_seed(0)
    network = build(spec, shape=shape)
    torch.manual_seed(0)
    assert torch.equal(network(x), build(spec, shape=Size((D,)))(x))


@each_context
@each_network
def test_every_parameter_gets_a_gradient(spec: CausalSpec, context: int) -> None:
    network = build(spec, context)
    network(torch.randn(32, D), torch.randn(32, C) if context else None).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


@each_network
def test_every_output_depends_on_the_context(spec: CausalSpec) -> None:
    network = build(spec, C)
    x = torch.randn(D)
    one, other = network(x, torch.randn(2, C))
    assert ((one - other).abs() > 0).any(-1).all()


@each_network
def test_batches_broadcast(spec: CausalSpec) -> None:
    network = build(spec, C)
    x, context = torch.randn(5, 1, D), torch.randn(4, C)
    together = network(x, context)
    assert together.shape == (5, 4, D, P)
    torch.testing.assert_close(together[3, 2], network(x[3, 0], context[2]), rtol=1e-4, atol=1e-5)
    assert build(spec)(torch.randn(2, 3, D)).shape == (2, 3, D, P)


@each_network
def test_a_single_value_has_a_distribution(spec: CausalSpec) -> None:
    network = spec.build(Size((1, 1, 1)), P)
    x = torch.randn(4, 1)
    assert network(x).shape == (4, 1, P)
    torch.testing.assert_close(network(x), network(x + 1))


@pytest.mark.parametrize(("name", "spec"), [("made", MADE()), ("wavenet", WaveNet()), ("pixelcnn", PixelCNN())])
def test_they_are_registered(name: str, spec: CausalSpec) -> None:
    assert find("causal", name).default == spec
    assert name_of(spec) == name


def test_weights_survive_their_state_dict() -> None:
    for spec in NETWORKS.values():
        network, again = build(spec), spec.build(SHAPE, P)
        again.load_state_dict(network.state_dict())
        x = torch.randn(3, D)
        assert torch.equal(network(x), again(x))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MADE(()), "hidden_features"),
        (lambda: WaveNet(channels=0), r"WaveNet\.channels = 0"),
        (lambda: WaveNet(dilations=(0,)), "dilations"),
        (lambda: WaveNet(kernel=1), r"kernel = 1: must be a whole number, 2"),
        (lambda: PixelCNN(kind="three-stack"), "two-stack"),  # type: ignore[arg-type]
        (lambda: PixelCNN(kernel=4), r"kernel = 4: must be odd"),
        (lambda: PixelCNN(kernel=1), r"kernel = 1: must be odd"),
        (lambda: PixelCNN().build(Size((24,)), 1), r"PixelCNN.*\(24,\).*\(1, H, W\).*MADE or WaveNet"),
        (lambda: PixelCNN().build(Size((4, 6)), 1), r"\(4, 6\).*\(1, H, W\)"),
        (lambda: PixelCNN().build(Size((3, 4, 2)), 1), r"\(3, 4, 2\).*one channel"),
        (lambda: MADE().build(FLAT, 1)(torch.zeros(2, 5)), r"\(2, 5\).*\(\.\.\., 4\)"),
        (lambda: MADE().build(FLAT, 1)(torch.zeros(4), torch.zeros(2)), r"\(2,\)"),
        (lambda: MADE().build(FLAT, 1, 2)(torch.zeros(4)), r"none.*\(\.\.\., 2\)"),
        (lambda: MADE().build(FLAT, 1, 2)(torch.zeros(4), torch.zeros(3)), r"\(3,\).*\(\.\.\., 2\)"),
    ],
)
def test_mistakes_are_named(make: object, message: str) -> None:
    with pytest.raises(FlowvaeError, match=message):
        make()  # type: ignore[operator]
