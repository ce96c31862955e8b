"""What all networks of images keep: shapes of any size, independent data points, a gradient for every parameter."""

from __future__ import annotations

import pytest
import torch
from torch import Size, Tensor, nn

from flowvae import FlowvaeError
from flowvae.core.registry import find, name_of
from flowvae.networks import Conv, GatedConv, ImageNetworkSpec, ResNet, check_network, fold, input_shape
from flowvae.networks.image_network import normalized

SPECS: dict[str, ImageNetworkSpec] = {
    "conv": Conv((6, 10), 12),
    "conv-group": Conv((8, 16), 12, normalization="group"),
    "conv-deep": Conv((4, 5, 6, 7), 12),
    "gated-conv": GatedConv((3, 5), 12),
    "gated-conv-deep": GatedConv((2, 3, 4, 5), 12),
    "resnet": ResNet((6, 5), 12, blocks=2),
    "resnet-group": ResNet((8, 16), 12, blocks=1, normalization="group"),
    "resnet-stem": ResNet((6, 5), 12, blocks=1, stem=4, activation="elu"),
    "resnet-dropout": ResNet((6,), 12, blocks=1, dropout=0.3, normalization="none"),
}
IMAGES = [
    *[(channels, *sides) for sides in [(28, 28), (32, 32), (28, 20), (31, 17)] for channels in (1, 3)],
    *[(1, 8, 8), (2, 5, 7), (1, 4, 4), (3, 9, 4), (4, 1, 6)],
]
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
        (image, Size((100, 7, 5)), (100, 7, 5)),
    ]:
        network = spec.build(inputs, outputs, context)
        assert network(torch.randn(2, *inputs), *condition(context, 2)).shape == (2, *expected)
        assert input_shape(network) == inputs
        assert check_network("network", network, inputs, outputs, context) == expected


@pytest.mark.parametrize("spec", [Conv((2,) * 4), GatedConv((2,) * 4), ResNet((2,) * 4, blocks=1)], ids=str)
def test_large_images_with_odd_sides(spec: ImageNetworkSpec) -> None:
    """Omniglot's own size."""
    image = Size((1, 105, 105))
    assert spec.build(image, Size((7,)))(torch.randn(1, *image)).shape == (1, 7)
    assert spec.build(Size((4,)), image)(torch.randn(1, 4)).shape == (1, *image)


@each_spec
def test_several_draws_are_decoded_as_each_alone(spec: ImageNetworkSpec) -> None:
    decoder = spec.build(Size((4,)), Size((2, 9, 7)), C).eval()
    z, c = torch.randn(3, 5, 4), torch.randn(5, C)
    out = fold(decoder, z, 1, c)
    assert out.shape == (3, 5, 2, 9, 7)
    for draw in range(3):
        torch.testing.assert_close(out[draw], decoder(z[draw], c))


@pytest.mark.parametrize("side", [4, 5, 8, 28, 32])
def test_feature_maps_have_half_of_the_sides_each(side: int) -> None:
    sides: list[int] = []
    network = Conv((2, 2, 2)).build(Size((1, side, side)))
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda _, __, out: sides.append(out.shape[-1]))
    network(torch.zeros(1, 1, side, side))
    assert sides == [-(-side // 2), -(-side // 4), -(-side // 8)]


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
    if training and getattr(spec, "dropout", 0):
        return  # noise of its own for each data point
    for inputs, outputs in [(Size((2, 9, 7)), None), (Size((4,)), Size((2, 9, 7)))]:
        network = spec.build(inputs, outputs, context).train(training)
        x, c = torch.randn(5, *inputs), condition(context, 5)
        together = network(x, *c)
        for i in range(5):
            torch.testing.assert_close(together[i : i + 1], network(x[i : i + 1], *(part[i : i + 1] for part in c)))


@pytest.mark.parametrize("channels", [1, 3, 4, 6, 8, 36])
def test_normalization_keeps_what_a_map_of_one_place_says(channels: int) -> None:
    """A group of a single value would be normalized to 0, whatever the image."""
    layers = normalized("group", channels)
    assert len(layers) == (1 if channels >= 4 else 0)
    for layer in layers:
        assert isinstance(layer, nn.GroupNorm)
        maps = torch.randn(2, channels, 1, 1)
        assert not torch.allclose(*layer(maps), atol=1e-3)
        assert channels // layer.num_groups >= 4


@pytest.mark.usefixtures("float64")
@each_spec
def test_the_condition_matters_everywhere(spec: ImageNetworkSpec) -> None:
    for inputs, outputs in [(Size((2, 8, 8)), Size((5,))), (Size((4,)), Size((2, 8, 8)))]:
        network = spec.build(inputs, outputs, C).eval()
        x = torch.randn(1, *inputs).expand(2, *inputs)
        one, other = network(x, torch.randn(2, C))
        assert (one != other).all()


@each_spec
def test_weights_survive_their_state_dict(spec: ImageNetworkSpec) -> None:
    network, again = (spec.build(Size((4,)), Size((1, 8, 8))).eval() for _ in range(2))
    z = torch.randn(3, 4)
    assert not torch.equal(network(z), again(z))
    again.load_state_dict(network.state_dict())
    assert torch.equal(network(z), again(z))


@pytest.mark.parametrize(("name", "family"), [("conv", Conv), ("gated-conv", GatedConv), ("resnet", ResNet)])
def test_they_are_registered(name: str, family: type[ImageNetworkSpec]) -> None:
    assert find("network", name).default == family()
    assert name_of(family((3,))) == name
    assert family([3, 4]) == family((3, 4))  # type: ignore[arg-type]  (as YAML gives it)


@pytest.mark.parametrize(
    ("make", "values"),
    [
        (lambda: Conv(()), ["Conv.channels"]),
        (lambda: GatedConv((4, 0)), ["GatedConv", "(4, 0)"]),
        (lambda: Conv(features=0), ["Conv.features = 0"]),
        (lambda: Conv(normalization="batch"), ["'batch'", "group"]),  # type: ignore[arg-type]
        (lambda: Conv().build(Size((64,))), ["Conv", "(64,)", "(C, H, W)"]),
        (lambda: GatedConv().build(Size((8, 8)), Size((64,))), ["GatedConv", "(8, 8)", "(64,)"]),
    ],
)
def test_mistakes_are_named(make: object, values: list[str]) -> None:
    with pytest.raises(FlowvaeError) as caught:
        make()  # type: ignore[operator]
    assert all(value in str(caught.value) for value in values)
