"""Hole mass where it is known, and the error that it states."""

from __future__ import annotations

import pytest
import torch
from helpers import disturb
from latent_cases import Prior, Shifted, Warped, ppca, share_covered, standard
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal
from zuko.distributions import NormalizingFlow

from flowvae.core.errors import FlowvaeError
from flowvae.evaluation.latent.holes import measure_holes
from flowvae.flows import MAF

pytestmark = pytest.mark.usefixtures("float64")

CENTRES = torch.tensor([[-2.0, 0.0], [1.0, 1.0], [1.5, -1.0]])


def test_no_holes_where_the_prior_is_the_aggregate() -> None:
    """p = q̄: the mass is the quantile itself, 0.05, and the stated intervals cover it 95 % of the time."""
    x = CENTRES.double()
    prior = MixtureSameFamily(Categorical(torch.ones(3)), Independent(Normal(x, torch.full_like(x, 0.7)), 1))
    masses = [measure_holes(Prior(prior), Shifted(0.7), x, draws=400, seed=seed).mass for seed in range(100)]
    assert 88 <= share_covered(masses, 0.05) <= 100
    assert measure_holes(Prior(prior), Shifted(0.7), x).base_mass is None  # a mixture has no base


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_hole_mass_of_gaussians(shift: float) -> None:
    """q̄ = N(0, s²) of one datum, p = N(shift, 1): a hole is |z| > 1.96 s, whose mass under p is exact."""
    x, scale = torch.zeros(1, 1), 0.8
    edge = 1.959964 * scale
    truth = (1 - Normal(shift, 1.0).cdf(torch.tensor(edge)) + Normal(shift, 1.0).cdf(torch.tensor(-edge))).item()
    prior = Prior(Independent(Normal(torch.tensor([shift]), torch.ones(1)), 1))
    results = [measure_holes(prior, Shifted(scale), x, draws=400, seed=seed) for seed in range(100)]
    assert 88 <= share_covered([result.mass for result in results], truth) <= 100
    for result in results:  # the base of a Gaussian with unit variance is a shift, which changes no density
        assert result.base_mass == pytest.approx(result.mass)


def test_the_quantile_has_an_error_too() -> None:
    """Without it the stated error would be too small by √2 where p = q̄."""
    result = measure_holes(standard(1), Shifted(1.0), torch.zeros(1, 1), draws=4000)
    share, se = result.mass
    assert se == pytest.approx((2 * share * (1 - share) / 4000) ** 0.5, rel=0.15)


def test_in_the_base_space_a_flow_makes_no_difference() -> None:
    """Prior and guide sent through a flow: the latent's holes move, those of the base stay."""
    lazy = MAF(transforms=1).transform(2)
    disturb(lazy, 0.8)
    with torch.no_grad():
        transform = lazy()
    x = CENTRES.double()
    plain = measure_holes(standard(2), Shifted(0.5), x)
    prior = Prior(NormalizingFlow(transform, standard(2).prior()))
    warped = measure_holes(prior, Warped(Shifted(0.5), transform.inv), x)
    assert warped.base_mass == pytest.approx(plain.mass)
    assert abs(warped.mass[0] - plain.mass[0]) > 3 * plain.mass[1]


def test_a_part_of_the_data_has_more_holes() -> None:
    _, guide, x = ppca(800, 0)
    whole = measure_holes(standard(2), guide, x, draws=1000)
    part = measure_holes(standard(2), guide, x[:4], draws=1000)
    assert part.mass[0] - whole.mass[0] > 3 * (part.mass[1] + whole.mass[1])
    assert abs(whole.mass[0] - 0.05) < 0.03


def test_held_out_codes_set_a_threshold_that_does_not_depend_on_n() -> None:
    """The prior is the population's q̄, of which q̄ knows ten data: still 0.05, as the intervals say."""
    _, guide, train = ppca(10, 0)
    masses = []
    for seed in range(100):
        _, _, new = ppca(400, seed + 1)
        masses.append(measure_holes(standard(2), guide, train, new, draws=400, seed=seed).mass)
    assert 88 <= share_covered(masses, 0.05) <= 100
    result = measure_holes(standard(2), guide, train, new)
    assert [metric.name for metric in result.metrics("test", {})] == ["held_out_hole_mass", "held_out_hole_mass_base"]
    with pytest.raises(FlowvaeError, match="held-out data = 20"):
        measure_holes(standard(2), guide, train, new[:20])


def test_chunks_seeds_metrics_and_mistakes() -> None:
    _, guide, x = ppca(60, 0)
    one = measure_holes(standard(2), guide, x, draws=300)
    other = measure_holes(standard(2), guide, x, draws=300, chunk=99)
    torch.testing.assert_close(one.prior, other.prior, rtol=1e-12, atol=1e-12)
    assert not torch.equal(one.prior, measure_holes(standard(2), guide, x, draws=300, seed=1).prior)
    metrics = {metric.name: metric for metric in one.metrics("test", {"seed": 0})}
    assert metrics["hole_mass"].value == pytest.approx((one.prior < one.threshold).double().mean().item())
    assert metrics["hole_mass_base"].value == metrics["hole_mass"].value
    assert metrics["hole_mass"].protocol == {"seed": 0, "draws": 300, "codes": 300, "quantile": 0.05}
    with pytest.raises(FlowvaeError, match="needs 200"):
        measure_holes(standard(2), guide, x, draws=100)
    with pytest.raises(FlowvaeError, match=r"quantile = 0\.7"):
        measure_holes(standard(2), guide, x, quantile=0.7)
