"""Layers of image flows, and the flows made of them, against autograd and by their round trips."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from helpers import disturb
from torch import Tensor, nn
from torchvision.transforms.functional import rotate
from zuko.lazy import LazyTransform

from flowvae.core.errors import FlowvaeError
from flowvae.core.parts import Cost
from flowvae.flows import FlowSpec, Glow, RealNVP, initialize_from_data
from flowvae.flows.image.channel_coupling import ChannelCoupling
from flowvae.flows.image.channel_norm import ChannelNorm
from flowvae.flows.image.convolution import Convolution1x1
from flowvae.flows.image.shapes import Shape
from flowvae.flows.image.squeeze import Squeeze, squeezed
from flowvae.flows.layers.logit import Logit
from flowvae.flows.layers.masks import MASKS, coupling_mask
from flowvae.flows.layers.partial_transform import PartialTransform

SHAPE: Shape = (4, 2, 2)
D = 16
LAYERS: dict[str, Callable[[], LazyTransform]] = {
    "squeeze": lambda: Squeeze((1, 4, 4)),
    "norm": lambda: ChannelNorm(SHAPE),
    "convolution": lambda: Convolution1x1(SHAPE),
    "rotated-convolution": lambda: Convolution1x1(SHAPE, torch.linalg.qr(torch.randn(4, 4))[0]),
    "coupling": lambda: ChannelCoupling(SHAPE, 8),
    "prior-coupling": lambda: ChannelCoupling(SHAPE, 0),
    "leading": lambda: PartialTransform(ChannelCoupling((2, 2, 2), 8), 8),
    "glow": lambda: Glow((4, 4), steps=2, hidden_channels=8).transform(D),
    "glow-one-level": lambda: Glow((4, 4), levels=1, steps=2, hidden_channels=8, rotate=True).transform(D),
    "glow-oblong": lambda: Glow((2, 8), levels=1, steps=2, hidden_channels=8).transform(D),
    "glow-channels": lambda: Glow((2, 2), levels=1, steps=2, hidden_channels=8).transform(12),
} | {f"realnvp-{mask}": lambda mask=mask: RealNVP(mask=mask, hidden_features=(16,)).transform(D) for mask in MASKS}  # type: ignore[misc]
layers = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS.keys())


def width(make: Callable[[], LazyTransform]) -> int:
    return 12 if make is LAYERS["glow-channels"] else D


@layers
@pytest.mark.usefixtures("float64")
def test_log_determinant_is_that_of_autograd(make: Callable[[], LazyTransform]) -> None:
    lazy = make()
    disturb(lazy, 0.15)
    transform = lazy()
    for z in 2 * torch.randn(3, width(make)):
        jacobian = torch.autograd.functional.jacobian(transform, z)
        expected = torch.linalg.slogdet(jacobian)[1]
        torch.testing.assert_close(transform.call_and_ladj(z)[1], expected, rtol=1e-8, atol=1e-10)
        u = transform(z)
        torch.testing.assert_close(transform.log_abs_det_jacobian(z, u), expected, rtol=1e-8, atol=1e-10)
        # the same in the generative direction, which a guide uses
        again, back = transform.inv.call_and_ladj(u)
        torch.testing.assert_close(again, z, rtol=0, atol=1e-9)
        torch.testing.assert_close(back, -expected, rtol=1e-7, atol=1e-8)


@layers
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
@pytest.mark.usefixtures("float64")
def test_round_trip_of_any_batch_shape(make: Callable[[], LazyTransform], batch: tuple[int, ...]) -> None:
    lazy = make()
    disturb(lazy, 0.1)
    z = 3 * torch.randn(*batch, width(make))
    u, log_det = lazy().call_and_ladj(z)
    assert u.shape == z.shape
    assert log_det.shape == batch
    torch.testing.assert_close(lazy().inv(u), z, rtol=0, atol=1e-10)


@layers
@pytest.mark.usefixtures("float64")
def test_starts_as_an_orthogonal_map(make: Callable[[], LazyTransform]) -> None:
    """As the identity, a permutation or a rotation: lengths and volumes are kept."""
    transform = make()()
    z = torch.randn(5, width(make))
    u, log_det = transform.call_and_ladj(z)
    torch.testing.assert_close(u.norm(dim=-1), z.norm(dim=-1))
    torch.testing.assert_close(log_det, torch.zeros(5), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["norm", "coupling", "prior-coupling", "leading", *(f"realnvp-{m}" for m in MASKS)])
def test_starts_as_the_identity(name: str) -> None:
    z = torch.randn(5, D)
    torch.testing.assert_close(LAYERS[name]()()(z), z)


@pytest.mark.parametrize("name", ["squeeze", "convolution", "glow", "glow-oblong"])
def test_starts_as_a_permutation(name: str) -> None:
    matrix = LAYERS[name]()()(torch.eye(D))
    assert torch.equal(matrix.sort(0).values, torch.eye(D).sort(0).values)
    assert torch.equal(matrix.sum(1), torch.ones(D))


@layers
@pytest.mark.parametrize("generative", [False, True], ids=["normalizing", "generative"])
def test_every_parameter_gets_a_finite_gradient(make: Callable[[], LazyTransform], generative: bool) -> None:
    lazy = make()
    disturb(lazy, 0.1)
    transform = lazy().inv if generative else lazy()
    u, log_det = transform.call_and_ladj(torch.randn(8, width(make)))
    if any(True for _ in lazy.parameters()):
        (u.square().sum() + log_det.sum()).backward()
    for name, parameter in lazy.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_squeeze_gathers_each_block_of_two_by_two() -> None:
    image = torch.arange(16.0).reshape(4, 4)
    channels = Squeeze((1, 4, 4))()(image.flatten()).reshape(squeezed((1, 4, 4)))
    assert channels[:, 0, 0].tolist() == [0, 1, 4, 5]
    assert channels[:, 1, 0].tolist() == [8, 9, 12, 13]
    assert torch.equal(channels[1], image[::2, 1::2])


@pytest.mark.usefixtures("float64")
def test_convolution_is_one_matrix_at_every_pixel() -> None:
    lazy = Convolution1x1((3, 4, 2))
    disturb(lazy, 0.5)
    z = torch.randn(5, 24)
    matrix = lazy.inv.transform.forward()._call  # the map, without torch's cache
    columns = torch.stack([matrix(e.repeat_interleave(8)).reshape(3, 8)[:, 0] for e in torch.eye(3)], 1)
    expected = nn.functional.conv2d(z.reshape(5, 3, 4, 2), columns[:, :, None, None]).flatten(1)
    torch.testing.assert_close(lazy()(z), expected)
    log_det = lazy().log_abs_det_jacobian(z, z)
    torch.testing.assert_close(log_det, 8 * torch.linalg.slogdet(columns)[1].expand(5))
    torch.testing.assert_close(log_det, 8 * lazy.log_diagonal.sum().expand(5))


@pytest.mark.usefixtures("float64")
def test_convolution_starts_as_the_matrix_that_it_is_given() -> None:
    start = torch.linalg.qr(torch.randn(4, 4))[0]
    z = torch.randn(7, 4)
    torch.testing.assert_close(Convolution1x1((4, 1, 1), start)()(z), z @ start.T)


@pytest.mark.usefixtures("float64")
def test_the_gaussian_of_the_factored_half_is_a_coupling() -> None:
    """log N(z_b; μ(z_a), σ²(z_a)) = log N(u_b; 0, 1) + log|det|, with μ and σ read off the inverse."""
    lazy = ChannelCoupling(SHAPE, 0)
    disturb(lazy, 0.3)
    z = torch.randn(6, D)
    u, log_det = lazy().call_and_ladj(z)
    kept, zero, one = z[:, :8], torch.zeros(6, 8), torch.ones(6, 8)
    mean = lazy().inv(torch.cat((kept, zero), 1))[:, 8:]
    scale = lazy().inv(torch.cat((kept, one), 1))[:, 8:] - mean
    direct = torch.distributions.Normal(mean, scale).log_prob(z[:, 8:]).sum(-1)
    torch.testing.assert_close(torch.distributions.Normal(0, 1).log_prob(u[:, 8:]).sum(-1) + log_det, direct)


@pytest.mark.usefixtures("float64")
def test_initialization_from_data_is_explicit_and_normalizes_each_channel() -> None:
    lazy = Glow((4, 4), steps=2, hidden_channels=8).transform(D)
    x = 5 + 3 * torch.randn(2000, D)
    assert all((part.log_scale == 0).all() for part in lazy.modules() if isinstance(part, ChannelNorm))
    u = initialize_from_data(lazy, x)
    torch.testing.assert_close(u, lazy()(x))
    # factored-out channels were normalized before their coupling, the others last of all
    channels = u.unflatten(-1, (D, 1, 1)).flatten(1)
    torch.testing.assert_close(channels.mean(0), torch.zeros(D), rtol=0, atol=0.1)
    torch.testing.assert_close(channels.std(0), torch.ones(D), rtol=0, atol=0.1)
    first = next(part for part in lazy.modules() if isinstance(part, ChannelNorm))
    out = first()(Squeeze((1, 4, 4))()(x)).unflatten(-1, SHAPE).movedim(1, 0).flatten(1)
    torch.testing.assert_close(out.mean(1), torch.zeros(4), rtol=0, atol=1e-12)
    torch.testing.assert_close(out.std(1), torch.ones(4))
    with pytest.raises(FlowvaeError, match="1 data"):
        initialize_from_data(lazy, x[:1])


@pytest.mark.parametrize("spec", [Glow((4, 4), steps=2, hidden_channels=8), RealNVP(mask="channel")], ids=repr)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_context_of_any_batch_shape(spec: FlowSpec, shape: tuple[int, ...]) -> None:
    lazy = spec.build(D, context=2)
    disturb(lazy, 0.1)
    context = torch.randn(*shape, 2)
    assert lazy(context).sample((5,)).shape == (5, *shape, D)
    z = torch.randn(*shape, D)
    log_prob = lazy(context).log_prob(z)
    assert log_prob.shape == shape
    for index in torch.cartesian_prod(*map(torch.arange, shape)).reshape(-1, len(shape)).tolist() if shape else []:
        one = lazy(context[tuple(index)]).log_prob(z[tuple(index)])
        torch.testing.assert_close(log_prob[tuple(index)], one, rtol=1e-4, atol=1e-4)


def test_cost_is_the_number_of_network_passes() -> None:
    spec = Glow((4, 4), steps=3, hidden_channels=8)
    lazy = spec.build(D)
    passes = 0

    def count(*_: object) -> None:
        nonlocal passes
        passes += 1

    for module in lazy.modules():
        if isinstance(module, ChannelCoupling):
            module.hyper.register_forward_hook(count)
    measured = []
    for call in (
        lambda: lazy().log_prob(torch.randn(3, D)),
        lambda: lazy().sample((3,)),
        lambda: lazy().rsample_and_log_prob((3,)),
    ):
        passes = 0
        call()
        measured.append(passes)
    assert spec.cost(D) == Cost(*measured)


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_keeps_half(name: str) -> None:
    mask = coupling_mask(name, 2 * D, (4, 4))
    assert mask.sum() == D


def test_masks_look_as_their_names_say() -> None:
    board = coupling_mask("checkerboard", 16).reshape(4, 4)
    assert torch.equal(board, ~rotate(board[None].float(), 90)[0].bool())
    assert (board[:, 1:] != board[:, :-1]).all()
    assert (board[1:] != board[:-1]).all()
    kept = Squeeze((1, 4, 4))()(coupling_mask("channel", 16).float()).reshape(4, 4)
    assert kept.tolist() == [[1.0] * 4, [1.0] * 4, [0.0] * 4, [0.0] * 4]
    assert coupling_mask("halves", 5).tolist() == [True, True, False, False, False]
    assert coupling_mask("alternating", 4).tolist() == [True, False, True, False]


def test_a_coupling_does_not_move_what_its_mask_keeps() -> None:
    for name in MASKS:
        lazy = RealNVP(transforms=1, mask=name).transform(D)
        disturb(lazy, 0.5)
        z = torch.randn(3, D)
        still = (lazy()(z) == z).all(0)
        assert torch.equal(still, coupling_mask(name, D))


@pytest.mark.parametrize("alpha", [0.0, 0.05, 0.3])
@pytest.mark.usefixtures("float64")
def test_logit_has_the_jacobian_of_autograd(alpha: float) -> None:
    transform = Logit(total=16, alpha=alpha)()
    v = 17 * torch.rand(6)
    y, log_det = transform.call_and_ladj(v)
    jacobian = torch.autograd.functional.jacobian(transform, v)
    torch.testing.assert_close(log_det, torch.linalg.slogdet(jacobian)[1], rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(transform.inv(y), v)
    reach = transform.inv(torch.tensor([-80.0, 80.0]))
    room = 17 * alpha / (1 - 2 * alpha)
    torch.testing.assert_close(reach, torch.tensor([-room, 17 + room]))


def wrong() -> list[object]:
    return [
        pytest.param(lambda: Glow((6, 8)).transform(48), "divisible by 4", id="sides"),
        pytest.param(lambda: Glow((8, 8), levels=4).transform(64), "divisible by 16", id="levels"),
        pytest.param(lambda: Glow().transform(60), "features = 60", id="square"),
        pytest.param(lambda: Glow((4, 4)).transform(24), "features = 24", id="channels"),
        pytest.param(lambda: Glow((8,)), "image_shape", id="shape"),  # type: ignore[arg-type]
        pytest.param(lambda: Glow((8, 0)), "image_shape", id="empty"),
        pytest.param(lambda: Glow().transform(1), "latent = 1", id="one"),
        pytest.param(lambda: Glow(steps=0), "steps", id="steps"),
        pytest.param(lambda: RealNVP(mask="checker"), "did you mean checkerboard", id="mask"),
        pytest.param(lambda: RealNVP(mask="checkerboard").transform(10), "features = 10", id="mask-square"),
        pytest.param(lambda: RealNVP(mask="channel", image_shape=(3, 4)).transform(12), "divisible by 2", id="odd"),
        pytest.param(lambda: RealNVP(mask="halves").transform(1), "latent = 1", id="halves"),
        pytest.param(lambda: Convolution1x1((1, 4, 4)), "channels = 1", id="convolution"),
        pytest.param(lambda: ChannelCoupling((3, 4, 4), 8), "channels = 3", id="coupling"),
        pytest.param(lambda: Logit(16, alpha=0.5), "alpha = 0.5", id="alpha"),
    ]


@pytest.mark.parametrize(("make", "message"), wrong())
def test_a_mistake_is_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(FlowvaeError, match=message):
        make()


def test_settings_from_yaml_become_a_pair() -> None:
    assert Glow([8, 8]) == Glow((8, 8))  # type: ignore[arg-type]
    assert RealNVP(mask="channel", image_shape=[4, 4]).image_shape == (4, 4)  # type: ignore[arg-type]


def test_a_seed_decides_the_rotations() -> None:
    def one() -> Tensor:
        torch.manual_seed(3)
        return Glow((4, 4), rotate=True).transform(D)()(torch.eye(D))

    assert torch.equal(one(), one())
