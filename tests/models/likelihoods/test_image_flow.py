"""A conditional image flow as a likelihood: determinants, integrals, and what its features see."""

from __future__ import annotations

import pytest
import torch
from helpers import disturb
from scipy.stats import ks_2samp
from torch import Size, Tensor
from torch.distributions import Normal

from flowvae.core.errors import FlowvaeError
from flowvae.core.parts import Units
from flowvae.models import GaussianLikelihood, ImageFlowDistribution, ImageFlowLikelihood, Likelihood

pytestmark = pytest.mark.usefixtures("float64")


def likelihood(shape: tuple[int, ...], by: float = 0.3, **settings: int) -> Likelihood:
    torch.manual_seed(0)
    units = Units(torch.full(shape, 2.0), torch.full(shape, 3.0))
    built = ImageFlowLikelihood(features=2, hidden=8, **settings).build(Size(shape), units)
    disturb(built, by)
    return built


def test_it_starts_as_a_gaussian_with_a_decoded_scale() -> None:
    shape = (3, 4, 5)
    units = Units(torch.full(shape, 2.0), torch.full(shape, 3.0))
    torch.manual_seed(0)
    h, x = torch.randn(6, 8, 4, 5), 5 * torch.randn(6, *shape)
    plain = GaussianLikelihood("each").build(Size(shape), units)
    found = ImageFlowLikelihood(features=2).build(Size(shape), units)(h).log_prob(x)
    torch.testing.assert_close(found, plain(h[:, :6]).log_prob(x))


def test_the_density_is_that_of_the_change_of_variables_by_autograd() -> None:
    built = likelihood((2, 3, 3))
    torch.manual_seed(1)
    h = torch.randn(6, 3, 3)
    given: ImageFlowDistribution = built(h)  # type: ignore[assignment]
    u = torch.randn(2, 3, 3)
    x = given.push(u)
    jacobian = torch.autograd.functional.jacobian(given.push, u).reshape(18, 18)
    expected = Normal(0.0, 1.0).log_prob(u).sum() - torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(given.log_prob(x), expected)


def test_it_integrates_to_one_over_two_pixels_and_is_drawn_as_it_is_scored() -> None:
    given = likelihood((1, 1, 2), by=0.5)(torch.randn(4, 1, 2, generator=torch.Generator().manual_seed(3)))
    with torch.no_grad():
        draws = given.sample(Size((4000,))).reshape(-1, 2)
        reach = 1.3 * (draws - draws.mean(0)).abs().max() + 1
        side = torch.linspace(-reach, reach, 501)
        grid = torch.cartesian_prod(side, side) + draws.mean(0)
        density = given.log_prob(grid.reshape(-1, 1, 1, 2)).exp()
    cell = side[1] - side[0]
    assert (density.sum() * cell**2).item() == pytest.approx(1, abs=2e-3)
    index = torch.multinomial(density, 4000, replacement=True, generator=torch.Generator().manual_seed(4))
    from_density = grid[index] + (torch.rand(4000, 2, generator=torch.Generator().manual_seed(5)) - 0.5) * cell
    for direction in (torch.tensor([1.0, 0.0]), torch.tensor([0.6, 0.8])):
        assert ks_2samp((draws @ direction).numpy(), (from_density @ direction).numpy()).pvalue > 1e-3


def test_pixels_depend_on_their_neighbours_and_on_the_features_there() -> None:
    built = likelihood((1, 8, 8), couplings=1)
    h = torch.randn(4, 8, 8).requires_grad_()
    x = torch.randn(1, 8, 8).requires_grad_()

    def conditional(x: Tensor, h: Tensor) -> Tensor:
        """The density of one changed pixel, up to the base."""
        coupling = built.couplings[0]
        return coupling(x[None], h[None, 2:])[0][0, 0, 4, 5]  # (4 + 5) % 2 = 1: changed

    of_x, of_h = torch.autograd.grad(conditional(x, h), (x, h))
    rows, columns = of_x[0].nonzero().T
    assert ((rows - 4).abs() <= 2).all()
    assert ((columns - 5).abs() <= 2).all()
    assert ((rows + columns) % 2 == 0).sum() == len(rows) - 1  # of its own colour there is itself alone
    assert (of_h[2:].abs().sum((1, 2)) > 0).all()


def test_the_mean_is_exact_where_the_flow_is_symmetric() -> None:
    built = likelihood((1, 4, 4), by=0.0)
    h = torch.randn(5, 4, 4, 4)
    torch.testing.assert_close(built.mean(h), 2 + 3 * h[:, :1])


def test_it_needs_images() -> None:
    with pytest.raises(FlowvaeError, match="8"):
        ImageFlowLikelihood().parameter_shape(Size((8,)))
