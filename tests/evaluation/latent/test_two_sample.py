"""MMD and the classifier test between distributions whose distance is known."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import disturb
from latent_cases import Prior, Shifted, Warped, share_covered, standard
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal
from torch.special import ndtr
from zuko.distributions import NormalizingFlow

from flowvae.core.errors import FlowvaeError
from flowvae.evaluation.auc import auc
from flowvae.evaluation.latent.base_space import from_base, to_base
from flowvae.evaluation.latent.classifier_test import measure_classifier, score
from flowvae.evaluation.latent.two_sample import codes_and_prior, measure_mmd, mmd
from flowvae.flows import MAF

pytestmark = pytest.mark.usefixtures("float64")


def exact_mmd(shift: Tensor, variance: float, width: float) -> float:
    """MMD² of N(shift, variance I) against N(0, I)."""

    def term(total: float, distance: Tensor) -> Tensor:
        square = width**2
        return (square / (square + total)) ** (len(shift) / 2) * (-distance.square().sum() / 2 / (square + total)).exp()

    nothing = torch.zeros_like(shift)
    return (term(2 * variance, nothing) + term(2, nothing) - 2 * term(1 + variance, shift)).item()


@pytest.mark.parametrize("shift", [0.0, 0.3, 1.5])
def test_mmd_of_gaussians(shift: float) -> None:
    """Unbiased, and the stated intervals cover the truth, far from equality and at it."""
    delta, width = torch.tensor([shift, 0.0]), 1.4
    torch.manual_seed(0)
    variance = 1.0 if shift == 0 else 0.5
    values = [mmd(delta + math.sqrt(variance) * torch.randn(150, 2), torch.randn(150, 2), width) for _ in range(100)]
    truth = exact_mmd(delta, variance, width)
    assert 88 <= share_covered(values, truth) <= 100
    squared = torch.tensor(values)[:, 0]
    assert (squared.mean() - truth).abs() < 3 * squared.std() / 10
    ratio = (torch.tensor(values)[:, 1].mean() / squared.std()).item()
    assert 0.8 < ratio < (1.6 if shift == 0 else 1.2)  # at equality it errs on the safe side


def test_mmd_is_the_sum_over_pairs() -> None:
    """Against the definition, across a border of two blocks of rows."""
    x, y = torch.randn(300, 3), torch.randn(300, 3) + 0.5

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (-(a[:, None] - b[None]).square().sum(-1) / 2).exp()

    h = kernel(x, x) + kernel(y, y) - kernel(x, y) - kernel(y, x)
    value, _ = mmd(x, y, 1.0)
    assert value == pytest.approx((h.sum() - h.trace()).item() / (300 * 299), rel=1e-9)


def test_mmd_changes_under_a_bijection_and_in_the_base_space_it_does_not() -> None:
    """For teaching: the same pair in two coordinates. In the latent the distance is one of the coordinates."""
    lazy = MAF(transforms=2).transform(2)
    disturb(lazy, 0.6)
    with torch.no_grad():
        transform = lazy()
    x = 0.5 * torch.randn(400, 2) + 1.0
    plain, guide = standard(2), Shifted(0.5)
    prior = Prior(NormalizingFlow(transform, standard(2).prior()))
    warped = Warped(guide, transform.inv)
    one, other = measure_mmd(plain, guide, x), measure_mmd(prior, warped, x)
    torch.testing.assert_close(one.squared, other.squared)
    codes, drawn = codes_and_prior(plain, guide, x)
    with torch.no_grad():
        in_latent, se = mmd(transform.inv(codes), transform.inv(drawn), math.sqrt(2))
    assert abs(in_latent - one.squared[1].item()) > 3 * se
    # whereas a classifier that is sent along scores every point as before
    before = auc((codes - drawn.mean(0)).sum(1), drawn.sum(1))
    with torch.no_grad():
        back = [transform(transform.inv(points)) for points in (codes, drawn)]
    assert auc((back[0] - drawn.mean(0)).sum(1), back[1].sum(1)) == pytest.approx(before, abs=1e-6)


def test_the_learned_classifier_finds_the_same_in_other_coordinates() -> None:
    """Prior and guide ten times as wide: in the base nothing has changed."""
    torch.manual_seed(0)
    guide, x = Shifted(0.6), 1.0 + 0.8 * torch.randn(2000, 1)
    base = measure_classifier(standard(1), guide, x)
    truth = ndtr(torch.tensor(1 / math.sqrt(2))).item()
    assert base.auc == pytest.approx(truth, abs=3 * base.auc_se)
    wide = measure_classifier(Prior(Independent(Normal(torch.zeros(1), 10 * torch.ones(1)), 1)), Scaled(guide), x)
    assert wide.auc == pytest.approx(base.auc, abs=base.auc_se)


class Scaled(Shifted):
    def __init__(self, guide: Shifted) -> None:
        super().__init__(guide.scale)

    def posterior(self, x: Tensor) -> Independent:
        return Independent(Normal(10 * x, torch.full_like(x, 10 * self.scale)), 1)


@pytest.mark.parametrize("delta", [0.0, 0.5, 2.0])
def test_best_classifier_of_gaussians(delta: float) -> None:
    """N(0, 1) against N(δ, 1): accuracy Φ(δ/2), area Φ(δ/√2), both within their intervals 95 % of the time."""
    torch.manual_seed(1)
    results = []
    for _ in range(100):
        codes, drawn = torch.randn(200) + delta, torch.randn(200)
        results.append(score(torch.sigmoid(codes - delta / 2), torch.sigmoid(drawn - delta / 2)))
    accuracy, area = ndtr(torch.tensor([delta / 2, delta / math.sqrt(2)])).tolist()
    assert 88 <= share_covered([(r.accuracy, r.accuracy_se) for r in results], accuracy) <= 100
    assert 88 <= share_covered([(r.auc, r.auc_se) for r in results], area) <= 100


def test_learned_classifier_reaches_the_best_one() -> None:
    x = 1.5 + 0.8 * torch.randn(2000, 1)
    result = measure_classifier(standard(1), Shifted(0.6), x)
    assert result.accuracy == pytest.approx(ndtr(torch.tensor(0.75)).item(), abs=3 * result.accuracy_se)
    assert result.auc == pytest.approx(ndtr(torch.tensor(1.5 / math.sqrt(2))).item(), abs=3 * result.auc_se)
    assert result.points == 1000


def test_classifier_on_equal_samples_says_one_half() -> None:
    x = 0.8 * torch.randn(600, 2)
    result = measure_classifier(standard(2), Shifted(0.6), x)
    assert abs(result.accuracy - 0.5) < 3 * result.accuracy_se
    assert abs(result.auc - 0.5) < 3 * result.auc_se


def test_a_mixture_prior_is_compared_after_standardization() -> None:
    """Codes are draws of the mixture: no distance, whatever its units."""
    centres = 100.0 * torch.tensor([[-1.0, 0.0], [1.0, 1.0]])
    parts = Independent(Normal(centres, torch.full_like(centres, 30.0)), 1)
    prior = MixtureSameFamily(Categorical(torch.ones(2)), parts)
    x = prior.sample((500,))
    result = measure_mmd(Prior(prior), Shifted(0.01), x)
    assert (result.squared.abs() < 3 * result.se).all()
    with pytest.raises(FlowvaeError, match="no base space"):
        to_base(prior, x)


def test_base_space_and_back() -> None:
    lazy = MAF(transforms=2).transform(3)
    disturb(lazy, 0.4)
    with torch.no_grad():
        flow = NormalizingFlow(lazy(), Independent(Normal(torch.ones(3), torch.full((3,), 2.0)), 1))
        full = torch.distributions.MultivariateNormal(torch.ones(3), torch.eye(3) + 0.5)
        for prior in (flow, full):
            z = prior.sample((5000,))
            u = to_base(prior, z)
            torch.testing.assert_close(from_base(prior, u), z)
            torch.testing.assert_close(u.mean(0), torch.zeros(3), rtol=0, atol=0.06)
            torch.testing.assert_close(u.T.cov(), torch.eye(3), rtol=0, atol=0.08)


def test_seeds_metrics_and_mistakes() -> None:
    guide, x = Shifted(0.5), torch.randn(60, 2)
    one = measure_mmd(standard(2), guide, x)
    assert torch.equal(one.squared, measure_mmd(standard(2), guide, x).squared)
    assert not torch.equal(one.squared, measure_mmd(standard(2), guide, x, seed=1).squared)
    names = [metric.name for metric in one.metrics("test", {})]
    assert names == ["mmd2_0.5", "mmd2_1", "mmd2_2"]
    result = measure_classifier(standard(2), guide, x)
    assert result == measure_classifier(standard(2), guide, x)
    assert [m.name for m in result.metrics("test", {})] == ["c2st_accuracy", "c2st_auc"]
    with pytest.raises(FlowvaeError, match="40 or more"):
        measure_classifier(standard(2), guide, x[:30])
    with pytest.raises(FlowvaeError, match="4 or more"):
        measure_mmd(standard(2), guide, x[:3])
    with pytest.raises(FlowvaeError, match="widths"):
        measure_mmd(standard(2), guide, x, widths=(0.0,))
