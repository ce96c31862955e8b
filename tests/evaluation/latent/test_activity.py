"""Active units where they are known, and the error that the measure states."""

from __future__ import annotations

import pytest
import torch
from latent_cases import Prior, Shifted, Warped, ppca, share_covered, standard
from torch.distributions import AffineTransform, Independent, Normal
from zuko.distributions import NormalizingFlow

from flowvae.core.errors import FlowvaeError
from flowvae.evaluation.latent.activity import measure_activity

pytestmark = pytest.mark.usefixtures("float64")

COLUMNS = (1.6, 0.6, 0.0)  # the third unit is not used


def test_activity_of_probabilistic_pca() -> None:
    """1 − (Λ⁻¹)_jj, from very few draws: their noise is taken away, and the intervals cover the truth."""
    model, _, _ = ppca(1, 0, COLUMNS)
    truth = 1 - model.precision().inverse().diagonal()
    results = []
    for seed in range(100):
        _, guide, x = ppca(120, seed, COLUMNS)
        results.append(measure_activity(standard(3), guide, x, draws=3, seed=seed))
    for j in range(3):
        intervals = [(result.share[j].item(), result.se[j].item()) for result in results]
        assert 88 <= share_covered(intervals, truth[j].item()) <= 100
        values = torch.tensor(intervals)[:, 0]
        assert (values.mean() - truth[j]).abs() < 3 * values.std() / 10


def test_active_and_collapsed_units() -> None:
    _, guide, x = ppca(400, 0, COLUMNS)
    result = measure_activity(standard(3), guide, x)
    assert result.active == 2
    assert result.collapsed == 1
    assert result.kl is not None
    model = guide.model
    with torch.no_grad():
        exact = torch.distributions.kl_divergence(
            model.posterior(x), torch.distributions.MultivariateNormal(torch.zeros(3), torch.eye(3))
        )
    torch.testing.assert_close(result.kl.sum(1), exact)
    metrics = {metric.name: metric for metric in result.metrics("test", {"seed": 0})}
    assert metrics["active_units"].value == 2
    assert metrics["inactive_share"].value == pytest.approx(1 / 3)
    assert metrics["collapsed_units"].value == 1
    assert metrics["kl_2"].value == pytest.approx(0.0, abs=1e-12)
    assert metrics["activity_0"].protocol == {"seed": 0, "draws": 100, "threshold": 0.01}


def test_errors_of_the_counts() -> None:
    """Two of four units lie near a threshold: over data sets, the counts spread as the stated errors say.

    Codes are N(0, r) about which the guide has next to no spread, so a unit of variance r is active where the
    data's own variance is above 0.01; and with q = N(0, 1) or N(m, 1) for a share of the data, KL = m²/2 or 0.
    """
    active, collapsed = [], []
    for seed in range(60):
        torch.manual_seed(seed)
        x = torch.randn(150, 4) * torch.tensor([0.5, 0.0102, 0.0098, 0.0001]).sqrt()
        result = measure_activity(standard(4), Shifted(1e-4), x, draws=2, seed=seed)
        active.append((float(result.active), result.active_se))
        x = torch.where(torch.rand(400, 2) < torch.tensor([0.010, 0.5]), 1.0, 0.0)
        result = measure_activity(standard(2), Shifted(1.0), x, draws=2, seed=seed)
        assert result.collapsed is not None
        assert result.collapsed_se is not None
        collapsed.append((float(result.collapsed), result.collapsed_se))
    for counts in (active, collapsed):
        value, stated = torch.tensor(counts).T
        assert value.std() > 0.3
        # next to the threshold the bootstrap is too small by up to √(2/3), and far from it both are 0
        assert 0.7 < stated.square().mean().sqrt() / value.std() < 1.2
    metrics = {metric.name: metric for metric in result.metrics("test", {})}
    assert metrics["active_units"].se == result.active_se
    assert metrics["inactive_share"].se == result.active_se / 2
    assert metrics["collapsed_units"].se == result.collapsed_se


def test_no_kl_of_units_where_they_depend_on_one_another() -> None:
    model, _, x = ppca(60, 0)
    result = measure_activity(standard(2), model, x)  # `model.posterior` has a full covariance
    assert result.kl is None
    assert result.collapsed is None
    assert "collapsed_units" not in {metric.name for metric in result.metrics("test", {})}


def test_unscaled_activity_would_follow_the_units_of_the_latent() -> None:
    """A prior and a guide ten times as wide have the same activity: it is a share of the prior's variance."""
    _, guide, x = ppca(80, 0)
    wide = Prior(Independent(Normal(torch.zeros(2), torch.full((2,), 10.0)), 1))
    times_ten = AffineTransform(0.0, 10.0, event_dim=1)
    one = measure_activity(standard(2), guide, x)
    other = measure_activity(wide, Warped(guide, times_ten), x)
    torch.testing.assert_close(one.share, other.share)


def test_activity_changes_under_a_rotation() -> None:
    """For teaching: N(0, I) stays itself when the latent is turned, and one of two active units is now two."""
    turn = torch.tensor([[1.0, 1.0], [-1.0, 1.0]]) / 2**0.5
    _, guide, x = ppca(300, 0, (1.6, 0.0))
    turned, _, _ = ppca(1, 0, (1.6, 0.0))
    with torch.no_grad():
        turned.weight.copy_(turned.weight @ turn)
    assert measure_activity(standard(2), guide, x).active == 1
    assert measure_activity(standard(2), turned, x).active == 2


def test_a_flow_prior_is_asked_for_draws() -> None:
    """Its variance has no formula; here it is 9 by construction."""
    prior = Prior(NormalizingFlow(AffineTransform(0.0, 1 / 3, event_dim=1), standard(2).prior()))
    x = 3 * torch.randn(500, 2)
    result = measure_activity(prior, Shifted(0.1), x)
    assert result.kl is None
    torch.testing.assert_close(result.share, x.var(0) / 9, rtol=0.05, atol=0)


def test_seeds_and_mistakes() -> None:
    _, guide, x = ppca(130, 0)
    one = measure_activity(standard(2), guide, x)
    assert torch.equal(one.share, measure_activity(standard(2), guide, x).share)
    assert not torch.equal(one.share, measure_activity(standard(2), guide, x, seed=1).share)
    with pytest.raises(FlowvaeError, match="draws = 1"):
        measure_activity(standard(2), guide, x, draws=1)
