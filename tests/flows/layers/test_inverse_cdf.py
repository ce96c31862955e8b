"""The universal flow in one dimension, against scipy."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch.distributions import Categorical, Distribution, MixtureSameFamily, Normal

from flowvae.core.errors import FlowvaeError
from flowvae.flows import InverseCDFTransform


def mixture() -> MixtureSameFamily:
    return MixtureSameFamily(
        Categorical(torch.tensor([0.3, 0.7])), Normal(torch.tensor([-2.0, 1.0]), torch.tensor([0.5, 1.0]))
    )


def cases() -> list[Any]:
    d = torch.distributions
    two, one_and_a_half = torch.tensor(2.0, dtype=torch.float64), torch.tensor(1.5, dtype=torch.float64)
    return [
        pytest.param(d.Gamma(2.5, 1.5), stats.gamma(2.5, scale=1 / 1.5), id="gamma-by-search"),
        pytest.param(d.Weibull(two, one_and_a_half), stats.weibull_min(1.5, scale=2.0), id="weibull"),
        pytest.param(d.Uniform(-1.0, 3.0), stats.uniform(-1, 4), id="uniform"),
        pytest.param(d.Cauchy(0.0, 1.0), stats.cauchy(), id="cauchy"),
        pytest.param(dist.Laplace(1.0, 2.0), stats.laplace(1, 2), id="pyro-laplace"),
    ]


@pytest.mark.parametrize(("distribution", "truth"), cases())
@pytest.mark.usefixtures("float64")
def test_the_normal_pushed_through_it_has_the_distribution(distribution: Distribution, truth: Any) -> None:
    flow = InverseCDFTransform(distribution)
    u = torch.linspace(-4, 4, 33)
    z = flow.inv(u)
    torch.testing.assert_close(z, torch.as_tensor(truth.ppf(stats.norm.cdf(u.numpy()))), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(flow(z), u, rtol=1e-9, atol=1e-9)
    drawn = flow.inv(torch.randn(4000))
    assert stats.kstest(drawn.numpy(), truth.cdf).pvalue > 1e-3


@pytest.mark.usefixtures("float64")
def test_log_determinant_is_that_of_autograd() -> None:
    for distribution in (torch.distributions.Gamma(2.5, 1.5), mixture()):
        flow = InverseCDFTransform(distribution)
        z = flow.inv(torch.randn(20)).requires_grad_()
        u, log_det = flow.call_and_ladj(z)
        (slope,) = torch.autograd.grad(u.sum(), z)
        torch.testing.assert_close(log_det, slope.log(), rtol=1e-9, atol=1e-9)
        u = torch.randn(20, requires_grad=True)
        (slope,) = torch.autograd.grad(flow.inv(u).sum(), u)
        torch.testing.assert_close(slope.log(), -flow.log_abs_det_jacobian(flow.inv(u), u), rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("float64")
def test_a_mixture_is_one_increasing_map_of_a_normal() -> None:
    flow = InverseCDFTransform(mixture())
    z = flow.inv(torch.linspace(-4, 4, 201))
    assert (z.diff() > 0).all()
    drawn = flow.inv(torch.randn(4000))
    assert stats.ks_2samp(drawn.numpy(), mixture().sample((4000,)).numpy()).pvalue > 1e-3


def test_extreme_values_stay_finite() -> None:
    flow = InverseCDFTransform(Normal(0.0, 1.0))
    assert torch.isfinite(flow(torch.tensor([-50.0, 50.0]))).all()


def test_distributions_that_it_cannot_take_are_refused() -> None:
    for distribution in (torch.distributions.StudentT(3.0), torch.distributions.Beta(2.0, 3.0)):
        with pytest.raises(FlowvaeError, match="must have a cdf"):
            InverseCDFTransform(distribution)
    for distribution in (torch.distributions.Poisson(2.0), dist.Normal(torch.zeros(2), 1.0).to_event(1)):
        with pytest.raises(FlowvaeError, match="univariate continuous"):
            InverseCDFTransform(distribution)
