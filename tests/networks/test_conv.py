"""Networks of images: convolutional and residual, encoders and decoders of many sizes."""

from __future__ import annotations

import pytest
import torch
from torch import Size, Tensor, nn
from torch.nn import functional as F

from flowvae import FlowvaeError
from flowvae.core.registry import find, name_of
from flowvae.networks import Conv, ImageNetworkSpec, ResNet, check_network, input_shape

SPECS: dict[str, ImageNetworkSpec] = {
    "conv": Conv((6, 10), 12),
    "conv-gated": Conv((6, 10), 12, gated=True),
    "conv-group": Conv((8, 16), 12, normalization="group"),
    "conv-gated-group": Conv((8, 12), 12, gated=True, normalization="group"),
    "conv-deep": Conv((4, 5, 6, 7), 12),
    "resnet": ResNet((8, 16), 12, blocks=1),
    "resnet-none": ResNet((6, 5), 12, blocks=2, normalization="none"),
}
IMAGES = [(1, 8, 8), (3, 32, 32), (1, 28, 28), (2, 5, 7), (1, 4, 4), (3, 9, 4), (4, 1, 6)]
C = 3
each_spec = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
each_image = pytest.mark.parametrize("image", [Size(image) for image in IMAGES], ids=str)
each_context = pytest.mark.parametrize("context", [0, C], ids=["plain", "context"])


def condition(context: int, rows: int) -> list[Tensor]:
    return [torch.randn(rows, context)] if context else []


@each_context
@each_image
@each_spec
def test_shapes(spec: ImageNetworkSpec, image: Size, context: int) -> None:
    for inputs, outputs, expected in [
        (image, None, (12,)),
        (image, Size((5,)), (5,)),
        (image, Size((2, 3)), (2, 3)),
        (Size((4,)), image, image),
        (Size((2, 2, 3)), image, image),
        (image, Size((6, 7, 5)), (6, 7, 5)),
    ]:
        network = spec.build(inputs, outputs, context)
        assert network(torch.randn(2, *inputs), *condition(context, 2)).shape == (2, *expected)
        assert input_shape(network) == inputs
        assert check_network("network", network, inputs, outputs, context) == expected


@pytest.mark.parametrize("side", [4, 5, 8, 28, 32])
def test_feature_maps_have_half_of_the_sides_each(side: int) -> None:
    sides: list[int] = []
    network = Conv((2, 2, 2)).build(Size((1, side, side)))
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda _, __, out: sides.append(out.shape[-1]))
    network(torch.zeros(1, 1, side, side))
    assert sides == [-(-side // 2), -(-side // 4), -(-side // 8)]


def test_an_encoder_and_a_decoder_by_hand() -> None:
    """One feature map, with torch's functions."""
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


def test_a_residual_block_by_hand() -> None:
    network = ResNet((4,), 5, blocks=1, normalization="none").build(Size((1, 6, 6)))
    w, b, w1, b1, w2, b2, v, a = network.parameters()
    x = torch.randn(3, 1, 6, 6)
    h = F.conv2d(x, w, b, stride=2, padding=1)
    h = h + F.conv2d(F.conv2d(h.relu(), w1, b1, padding=1).relu(), w2, b2, padding=1)
    torch.testing.assert_close(network(x), (h.relu().flatten(1) @ v.T + a).relu())


@each_context
@each_spec
def test_every_parameter_gets_a_gradient(spec: ImageNetworkSpec, context: int) -> None:
    for inputs, outputs in [(Size((2, 9, 7)), None), (Size((4,)), Size((2, 9, 7)))]:
        network = spec.build(inputs, outputs, context)
        network(torch.randn(16, *inputs), *condition(context, 16)).square().sum().backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.abs().sum() > 0, name


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("training", [True, False])
@each_context
@each_spec
def test_the_output_of_a_data_point_does_not_depend_on_the_batch(
    spec: ImageNetworkSpec, context: int, training: bool
) -> None:
    for inputs, outputs in [(Size((2, 9, 7)), None), (Size((4,)), Size((2, 9, 7)))]:
        network = spec.build(inputs, outputs, context).train(training)
        x, c = torch.randn(5, *inputs), condition(context, 5)
        together = network(x, *c)
        for i in range(5):
            torch.testing.assert_close(together[i : i + 1], network(x[i : i + 1], *(part[i : i + 1] for part in c)))


@pytest.mark.parametrize("channels", [1, 3, 4, 6, 8, 36])
def test_normalization_keeps_what_a_map_of_one_place_says(channels: int) -> None:
    """A group of a single value would be normalized to 0, whatever the image."""
    network = Conv((channels,) * 3, normalization="group").build(Size((1, 4, 4)))
    normalized = [layer for layer in network if isinstance(layer, nn.GroupNorm)]
    assert len(normalized) == (3 if channels >= 4 else 0)
    for layer in normalized:
        maps = torch.randn(2, channels, 1, 1)
        assert not torch.allclose(*layer(maps), atol=1e-3)
        assert channels // layer.num_groups >= 4


@each_spec
def test_the_condition_matters_everywhere(spec: ImageNetworkSpec) -> None:
    for inputs, outputs in [(Size((2, 8, 8)), Size((5,))), (Size((4,)), Size((2, 8, 8)))]:
        network = spec.build(inputs, outputs, C)
        x = torch.randn(1, *inputs).expand(2, *inputs)
        one, other = network(x, torch.randn(2, C))
        assert (one != other).all()


@each_spec
def test_weights_survive_their_state_dict(spec: ImageNetworkSpec) -> None:
    network, again = (spec.build(Size((4,)), Size((1, 8, 8))) for _ in range(2))
    z = torch.randn(3, 4)
    assert not torch.equal(network(z), again(z))
    again.load_state_dict(network.state_dict())
    assert torch.equal(network(z), again(z))


@pytest.mark.parametrize("family", [Conv, ResNet])
def test_they_are_registered(family: type[ImageNetworkSpec]) -> None:
    name = family.__name__.lower()
    assert find("network", name).default == family()
    assert name_of(family((3,))) == name
    assert family([3, 4]) == family((3, 4))  # type: ignore[arg-type]  (as YAML gives it)


@pytest.mark.parametrize(
    ("make", "values"),
    [
        (lambda: Conv(()), ["Conv.channels"]),
        (lambda: Conv((4, 0)), ["(4, 0)"]),
        (lambda: Conv(features=0), ["Conv.features = 0"]),
        (lambda: Conv(gated=1), ["Conv.gated = 1"]),  # type: ignore[arg-type]
        (lambda: Conv(normalization="batch"), ["'batch'", "group"]),  # type: ignore[arg-type]
        (lambda: ResNet(blocks=0), ["ResNet.blocks = 0"]),
        (lambda: ResNet(normalization="batch"), ["'batch'", "group"]),  # type: ignore[arg-type]
        (lambda: Conv().build(Size((64,))), ["Conv", "(64,)", "(C, H, W)"]),
        (lambda: ResNet().build(Size((8, 8)), Size((64,))), ["ResNet", "(8, 8)", "(64,)"]),
    ],
)
def test_mistakes_are_named(make: object, values: list[str]) -> None:
    with pytest.raises(FlowvaeError) as caught:
        make()  # type: ignore[operator]
    assert all(value in str(caught.value) for value in values)
