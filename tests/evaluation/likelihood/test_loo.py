"""Leave-one-out against the exact predictive densities of the conjugate normal mean."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor

from flowvae import FlowvaeError
from flowvae.evaluation import importance_sample, importance_sample_each, importance_sample_to_arviz, loo
from flowvae.evaluation.arviz.versions import OLD, arviz
from flowvae.models import LinearGaussian

az = arviz()

PRIOR = 3.0
Y = torch.distributions.Normal(1.0, 1.0).icdf(torch.linspace(0.03, 0.97, 20, dtype=torch.float64))


def model(y: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(torch.zeros((), dtype=y.dtype), PRIOR))
    with pyro.plate("observation", len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def posterior(y: Tensor) -> tuple[Tensor, float]:
    precision = len(y) + PRIOR**-2
    return y.sum() / precision, precision**-0.5


def guide(shift: float, scale: float) -> Callable[[Tensor], None]:
    """The exact posterior, shifted by some of its standard deviations and scaled."""

    def draw(y: Tensor) -> None:
        loc, sd = posterior(y)
        pyro.sample("mu", dist.Normal(loc + shift * sd, scale * sd))

    return draw


def exact() -> Tensor:
    """log p(y_i | y_−i), every i."""
    values = []
    for i in range(len(Y)):
        loc, sd = posterior(torch.cat((Y[:i], Y[i + 1 :])))
        values.append(dist.Normal(loc, (1 + sd**2) ** 0.5).log_prob(Y[i]))
    return torch.stack(values)


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (0.0, 2.0), (0.7, 1.3), (0.0, 0.8)])
def test_exact_predictive_densities(shift: float, scale: float) -> None:
    results = [loo(importance_sample(model, guide(shift, scale), Y, draws=8000, seed=seed)) for seed in range(4)]
    pointwise = torch.stack([result.pointwise for result in results])
    torch.testing.assert_close(pointwise.mean(0), exact(), rtol=0, atol=0.02)
    elpd = torch.tensor([result.elpd for result in results])
    assert elpd.mean().item() == pytest.approx(exact().sum().item(), abs=0.04)
    assert results[0].pareto_k.max() < results[0].good_k
    loc, sd = posterior(Y)
    within = dist.Normal(loc, (1 + sd**2) ** 0.5).log_prob(Y).sum()
    assert results[0].effective_parameters == pytest.approx((within - exact().sum()).item(), abs=0.05)
    assert results[0].se == pytest.approx((20 * exact().numpy().var()) ** 0.5, abs=0.05)


def test_without_the_correction_a_wide_guide_misleads() -> None:
    """az.loo takes the guide's draws for the posterior's; resampled draws are what it may be given."""
    weighed = importance_sample(model, guide(0.0, 3.0), Y, draws=8000)
    truth = exact().sum().item()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        naive = _elpd(az.loo(importance_sample_to_arviz(weighed)))
        resampled = _elpd(az.loo(importance_sample_to_arviz(weighed, resampled=True)))
    assert naive < truth - 2
    assert resampled == pytest.approx(truth, abs=0.15)
    assert loo(weighed).elpd == pytest.approx(truth, abs=0.15)


def test_agrees_with_arviz() -> None:
    """1.x has the same estimator; 0.23 has it for exact draws only, whose weights are equal."""
    weighed = importance_sample(model, guide(0.0, 1.0) if OLD else guide(0.3, 1.5), Y, draws=4000)
    data = importance_sample_to_arviz(weighed)
    if OLD:
        theirs = az.loo(data, pointwise=True)
        pointwise, tolerance = theirs.loo_i, 1e-6
    else:
        log_p, log_q = data["sample_stats"]["log_p"], data["sample_stats"]["log_q"]
        theirs = az.loo_approximate_posterior(data, log_p, log_q, pointwise=True)
        pointwise, tolerance = theirs.elpd_i, 1e-6
    ours = loo(weighed)
    np.testing.assert_allclose(ours.pointwise, pointwise.values, rtol=0, atol=tolerance)
    np.testing.assert_allclose(ours.pareto_k, theirs.pareto_k.values, rtol=0, atol=1e-4)
    assert ours.good_k == pytest.approx(theirs.good_k)


def test_sites_and_single_data_are_told_apart() -> None:
    def two(y: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(torch.zeros((), dtype=y.dtype), PRIOR))
        with pyro.plate("observation", len(y)):
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y)
            pyro.sample("w", dist.Normal(mu, 1.0), obs=y)

    weighed = importance_sample(two, guide(0.0, 0.7), Y)
    with pytest.raises(FlowvaeError, match="site = None: the model observes y, w"):
        loo(weighed)
    with pytest.raises(FlowvaeError, match="Known: w, y"):
        loo(weighed, "v")
    assert "20 data" in str(loo(weighed, "w"))
    pair = LinearGaussian(torch.ones(2, 1), torch.zeros(2), 1.0)

    def amortized(x: Tensor, size: int | None = None) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", pair.posterior(x))

    with pytest.raises(FlowvaeError, match="log_evidence"):
        loo(importance_sample_each(pair, amortized, torch.zeros(3, 2), draws=50))


KEPT = torch.arange(len(Y)) % 3 > 0


def mean() -> Tensor:
    return pyro.sample("mu", dist.Normal(torch.zeros((), dtype=Y.dtype), PRIOR))


def by_handler(y: Tensor) -> None:
    mu = mean()
    with poutine.mask(mask=KEPT), pyro.plate("observation", len(y)), poutine.mask(mask=torch.tensor(True)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def by_distribution(y: Tensor) -> None:
    mu = mean()
    with pyro.plate("observation", len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0).mask(KEPT), obs=y)


def in_events(y: Tensor) -> None:
    """Every datum is an event of two numbers, of which one is never counted."""
    mu = mean()
    with pyro.plate("observation", len(y)):
        pairs = dist.Normal(mu.unsqueeze(-1).expand(*mu.shape[:-1], len(y), 2), 1.0).mask(torch.tensor([True, False]))
        pyro.sample("y", pairs.to_event(1).mask(KEPT), obs=torch.stack((y, torch.full_like(y, torch.nan)), -1))


def of_two_plates(y: Tensor) -> None:
    mu = mean()
    with pyro.plate("row", 4, dim=-2), pyro.plate("column", 5, dim=-1), poutine.mask(mask=KEPT.reshape(4, 5)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y.reshape(4, 5))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("masked", [by_handler, by_distribution, in_events, of_two_plates])
def test_masked_data_are_no_data(masked: Callable[[Tensor], None]) -> None:
    """As if they had never been there, be they NaN; in ArviZ as well."""

    def draw(_: Tensor) -> None:
        guide(0.3, 1.2)(Y[KEPT])

    few = importance_sample(model, draw, Y[KEPT], draws=4000)
    weighed = importance_sample(masked, draw, Y.where(KEPT, torch.nan), draws=4000)
    torch.testing.assert_close(weighed.log_weight, few.log_weight, rtol=0, atol=1e-6)
    expected, result = loo(few), loo(weighed)
    torch.testing.assert_close(result.pointwise, expected.pointwise, rtol=0, atol=1e-6)
    torch.testing.assert_close(result.pareto_k, expected.pareto_k, rtol=0, atol=1e-4)
    assert str(result) == str(expected)
    exported = importance_sample_to_arviz(weighed, resampled=True)
    variable = exported["log_likelihood"]["y"]
    assert variable.shape == (1, 4000, 13)
    np.testing.assert_array_equal(variable["y_counted"], KEPT.nonzero().squeeze(1))
    assert _elpd(az.loo(exported)) == pytest.approx(expected.elpd, abs=0.2)


def test_fewer_than_two_data_are_refused() -> None:
    """The others would be the prior, and one number has no standard error."""

    def lone(y: Tensor) -> None:
        with poutine.mask(mask=torch.arange(len(y)) == 3):
            model(y)

    def event(y: Tensor) -> None:
        mu = mean()
        pyro.sample("y", dist.Normal(mu.unsqueeze(-1).expand(*mu.shape, len(y)), 1.0).to_event(1), obs=y)

    def hidden(y: Tensor) -> None:
        mu = mean()
        with pyro.plate("observation", len(y)), poutine.mask(mask=torch.arange(len(y)) == 3):
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    with pytest.raises(FlowvaeError, match="'y': 1 data"):
        loo(importance_sample(event, guide(0.0, 1.0), Y))
    with pytest.raises(FlowvaeError, match=r"'y': 1 data.* 19 masked"):
        loo(importance_sample(hidden, guide(0.0, 1.0), Y))
    with pytest.raises(FlowvaeError, match=r"'mu': .*\(20,\)"):
        importance_sample(lone, guide(0.0, 1.0), Y)  # masks the mean as well


def _elpd(result: object) -> float:
    return float(result["elpd_loo"] if OLD else result.elpd)  # type: ignore[index,attr-defined]
