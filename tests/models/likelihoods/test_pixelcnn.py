"""PixelCNN as a likelihood: what a pixel depends on, draws over windows, and its place in a VAE."""

from __future__ import annotations

import pytest
import torch
from torch import Size, Tensor

from flowvae import Experiment
from flowvae.core.errors import FlowvaeError
from flowvae.core.parts import parse_likelihood
from flowvae.data import Dataset
from flowvae.evaluation import measure_likelihoods
from flowvae.models import PixelCNNDistribution, PixelCNNLikelihood
from flowvae.networks import MLP, PixelCNN

SHAPE = Size((3, 6, 7))
SPEC = PixelCNNLikelihood(3, features=4, channels=8, layers=2)


def given(spec: PixelCNNLikelihood = SPEC, count: int = 2) -> tuple[PixelCNNDistribution, Tensor]:
    """The distribution of a network away from its start, and images."""
    torch.manual_seed(0)
    x = torch.randint(0, spec.total + 1, (count, *SHAPE)).to(torch.get_default_dtype())
    likelihood = spec.build(SHAPE, spec.units(x))
    with torch.no_grad():
        for parameter in likelihood.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return likelihood(torch.randn(count, *spec.parameter_shape(SHAPE))), x


@pytest.mark.usefixtures("float64")
def test_a_pixel_depends_on_earlier_pixels_nearby() -> None:
    """Of the parameters at row 4, column 3: no later pixel, nor one farther away than the radius; all colours."""
    distribution, x = given()
    x = x.requires_grad_()
    outputs = distribution.network.images(x, distribution.features)
    (slope,) = torch.autograd.grad(outputs[0, :, 4, 3].square().sum(), x)
    seen = slope[0] != 0
    assert (seen.all(0) == seen.any(0)).all()
    expected = torch.zeros(6, 7, dtype=torch.bool)
    expected[1:4, 1:6] = True  # one row up, and one row and column more for each of two layers
    expected[4, :3] = True
    assert not seen[0][~(expected)].any()
    assert seen[0, 4, :3].all()
    assert seen[0, 3, 1:6].all()
    assert distribution.radius == 3


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("kind", ["two-stack", "masked"])
@pytest.mark.parametrize(
    ("layers", "kernel", "field"), [(1, 3, None), (2, 3, None), (1, 5, None), (3, 3, 2), (2, 3, 0)]
)
def test_a_window_of_the_radius_is_enough(kind: str, layers: int, kernel: int, field: int | None) -> None:
    """The parameters of a pixel from its window are those from the whole image, for every pixel."""
    torch.manual_seed(0)
    spec = PixelCNN(kind, channels=4, layers=layers, kernel=kernel, field=field)  # type: ignore[arg-type]
    network = spec.network(2, 5, (9, 9), maps=3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    x, maps, radius = torch.randn(2, 2, 9, 9), torch.randn(2, 3, 9, 9), spec.radius
    whole = network.images(x, maps)
    for i in range(9):
        for j in range(9):
            left = max(0, j - radius)
            window = slice(max(0, i - radius), i + 1), slice(left, j + radius + 1)
            found = network.images(x[..., *window], maps[..., *window], window)
            torch.testing.assert_close(found[..., -1, j - left], whole[..., i, j])


@pytest.mark.usefixtures("float64")
def test_draws_have_the_conditionals_that_score_them() -> None:
    """Given the same random numbers, a draw by passes over the whole image is the same."""
    distribution, _ = given()
    torch.manual_seed(3)
    found = distribution.sample()
    torch.manual_seed(3)
    x = torch.zeros_like(found)
    for i in range(SHAPE[1]):
        for j in range(SHAPE[2]):
            parameters = distribution.network.images(2 * x / 3 - 1, distribution.features)
            x[..., i : i + 1, j : j + 1] = distribution.head(parameters[..., i : i + 1, j : j + 1]).sample()
    assert torch.equal(found, x)


@pytest.mark.usefixtures("float64")
def test_the_mean_is_that_of_draws() -> None:
    torch.manual_seed(0)
    spec = PixelCNNLikelihood(1, features=2, channels=4, layers=1)
    x = torch.randint(0, 2, (20, 1, 3, 3)).double()
    likelihood = spec.build(Size((1, 3, 3)), spec.units(x))
    with torch.no_grad():
        for parameter in likelihood.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    h = torch.randn(1, 2, 3, 3).expand(500, -1, -1, -1)
    state = torch.get_rng_state()
    means = likelihood.mean(h)  # 500 averages over four draws each
    assert torch.equal(means, likelihood.mean(h))
    assert torch.equal(torch.get_rng_state(), state)
    draws = likelihood(h[0]).sample(Size((20_000,)))
    error = (means.var(0) / 500 + draws.var(0) / 20_000).sqrt()
    assert ((means.mean(0) - draws.mean(0)).abs() <= 5 * error).all()


@pytest.mark.parametrize("text", ["pixelcnn:features=4:channels=8", "pixelcnn:7:features=4:channels=8:layers=1"])
def test_it_works_in_an_experiment(text: str) -> None:
    spec = parse_likelihood(text)
    assert str(spec) == text
    x = torch.randint(0, (spec.largest or 0) + 1, (60, 1, 5, 4), generator=torch.Generator().manual_seed(0)).float()
    data = Dataset(*x.split(20), spec, "toy", "none", "in order")
    pair = Experiment(latent=2, encoder=MLP((8,)), decoder=MLP((8,))).build(data)
    result = measure_likelihoods(*pair, data.test, draws=60)
    torch.testing.assert_close(result.elbo, measure_likelihoods(*pair, data.test, 60, compile="none").elbo)
    assert pair.model.generate(3)[1].shape == (3, 1, 5, 4)


def test_it_needs_images() -> None:
    for shape in ((5,), (2, 7)):
        with pytest.raises(FlowvaeError, match=r"pixelcnn.*\(C, H, W\).*bernoulli"):
            SPEC.parameter_shape(Size(shape))
    for text in ("pixelcnn:kernel=4", "pixelcnn:layers=0", "pixelcnn:channels=0", "pixelcnn:features=0"):
        with pytest.raises(FlowvaeError, match=f"{text[9:-2]} = {text[-1]}"):
            parse_likelihood(text)


def seen_by(spec: PixelCNNLikelihood, row: int, column: int, shape: Size) -> Tensor:
    """Which pixels the features of the causal network at one pixel depend on, shape (H, W), by autograd."""
    torch.manual_seed(0)
    network = spec.causal.network(shape[0], 2, (shape[1], shape[2]))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    x = torch.randn(1, *shape, requires_grad=True)
    features = network.stacks(x, network.place, [0.0] * spec.layers)
    (slope,) = torch.autograd.grad(features[0, :, row, column].sum(), x, allow_unused=True)
    return torch.zeros(shape[1:], dtype=torch.bool) if slope is None else (slope[0] != 0).any(0)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("layers", "kernel", "field", "radius"),
    [(3, 3, 0, 0), (3, 3, 1, 1), (3, 3, 2, 2), (3, 3, 3, 3), (3, 3, None, 4), (2, 5, 1, 1), (2, 5, 3, 3), (2, 5, 5, 5)],
)
def test_the_receptive_field_is_the_one_that_is_set(layers: int, kernel: int, field: int | None, radius: int) -> None:
    """Exactly r pixels to the left and 2r − 1 columns of the r rows above, at the same depth."""
    spec = PixelCNNLikelihood(1, channels=4, layers=layers, kernel=kernel, field=field)
    seen = seen_by(spec, 8, 7, Size((1, 13, 15)))
    expected = torch.zeros(13, 15, dtype=torch.bool)
    expected[8 - radius : 8, 7 - radius + 1 : 7 + radius] = True
    expected[8, 7 - radius : 7] = True
    assert torch.equal(seen, expected)
    assert (spec.radius, spec.receptive_field) == (radius, int(seen.sum()))
    assert len(spec.causal.kernels) == layers
    assert parse_likelihood(str(spec)) == spec


@pytest.mark.usefixtures("float64")
def test_without_a_field_the_pixels_are_independent_given_the_features() -> None:
    """Its log-density is then that of the head, pixel by pixel, and every parameter has a gradient."""
    spec = PixelCNNLikelihood(1, features=2, channels=4, layers=2, field=0)
    x = torch.randint(0, 2, (3, 1, 4, 5)).double()
    likelihood = spec.build(Size((1, 4, 5)), spec.units(x))
    with torch.no_grad():
        for parameter in likelihood.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    h = torch.randn(3, 2, 4, 5)
    logits = likelihood.mean(h).logit()
    expected = -torch.nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="none").sum((1, 2, 3))
    found = likelihood(h).log_prob(x)
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    for name, parameter in likelihood.named_parameters():
        used = not name.startswith("network.vertical.1")  # of the last layer, the horizontal stack alone is read
        assert parameter.grad is not None or not used, name


def test_a_field_that_no_layers_reach_is_refused() -> None:
    for text, known in (("field=5:layers=2", "0, 1, 2, 3"), ("field=2:kernel=5", "0, 1, 3, 5"), ("field=-1", "")):
        with pytest.raises(FlowvaeError, match=rf"field = {text.split(':')[0][6:]}.*{known}"):
            parse_likelihood(f"pixelcnn:{text}")
