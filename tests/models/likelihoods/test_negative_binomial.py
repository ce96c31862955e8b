"""Negative binomials against SciPy, with and without additional zeros."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import scipy.stats
import torch
from torch import Size

from flowvae.core.errors import FlowvaeError
from flowvae.core.parts import Units
from flowvae.models import NegativeBinomial, NegativeBinomialLikelihood, ZeroInflatedNegativeBinomialLikelihood

COUNTS = np.array([0, 1, 2, 7, 40, 1000, 65536])


def truth(x: int, log_mean: float, log_dispersion: float) -> float:
    with mpmath.workdps(50):
        mean, dispersion = mpmath.exp(log_mean), mpmath.exp(log_dispersion)
        gammas = mpmath.loggamma(x + dispersion) - mpmath.loggamma(dispersion) - mpmath.loggamma(x + 1)
        share = mpmath.log(dispersion + mean)
        return float(gammas + dispersion * (log_dispersion - share) + x * (log_mean - share))


@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
@pytest.mark.parametrize("log_dispersion", [-10.0, -2.0, 0.0, 3.0, 10.0])
@pytest.mark.parametrize("log_mean", [-20.0, -1.0, 2.0, 9.0])
def test_counts(log_mean: float, log_dispersion: float, dtype: torch.dtype, close: float) -> None:
    """Even in float32, where log x! of the largest count would be rounded by 0.03 nats."""
    expected = np.array([truth(int(x), log_mean, log_dispersion) for x in COUNTS])
    x, parameters = torch.tensor(COUNTS, dtype=dtype), (log_mean, log_dispersion, -1.0)
    log_means, log_dispersions, zeros = (torch.full((7,), value, dtype=dtype) for value in parameters)
    given = NegativeBinomial(log_means, log_dispersions)
    np.testing.assert_allclose(given.log_prob(x).numpy(), expected, rtol=2e-7 if close > 1e-6 else 1e-12, atol=close)
    assert given.mean[0].item() == pytest.approx(np.exp(log_mean), rel=1e-5)
    inflated = NegativeBinomial(log_means, log_dispersions, zeros)
    share = 1 / (1 + np.e)
    expected = np.log1p(-share) + expected
    expected[0] = np.logaddexp(np.log(share), expected[0])
    np.testing.assert_allclose(inflated.log_prob(x).numpy(), expected, rtol=2e-7 if close > 1e-6 else 1e-12, atol=close)
    assert inflated.mean[0].item() == pytest.approx((1 - share) * np.exp(log_mean), rel=1e-5)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("dispersion", [0.3, 4.0])
def test_scipy_agrees(dispersion: float) -> None:
    x, log_dispersion = torch.arange(50.0), torch.tensor(dispersion).log()
    found = NegativeBinomial(torch.tensor(3.0).log().expand(50), log_dispersion).log_prob(x)
    np.testing.assert_allclose(
        found, scipy.stats.nbinom.logpmf(x, dispersion, dispersion / (dispersion + 3)), rtol=1e-12
    )


def test_a_large_dispersion_is_almost_poisson_s() -> None:
    x = torch.arange(30.0)
    found = NegativeBinomial(torch.tensor(2.0).expand(30), torch.tensor(10.0).expand(30)).log_prob(x)
    torch.testing.assert_close(found, torch.distributions.Poisson(np.exp(2.0)).log_prob(x), rtol=0, atol=0.02)


@pytest.mark.usefixtures("float64")
def test_variances_of_draws() -> None:
    """μ + μ²/θ, and with a share π of zeros (1 − π) (μ + μ²/θ + π μ²)."""
    torch.manual_seed(0)
    draws = NegativeBinomial(torch.tensor(1.0), torch.tensor(0.5)).sample((40_000,))
    mean, dispersion = np.exp(1.0), np.exp(0.5)
    assert draws.var().item() == pytest.approx(mean + mean**2 / dispersion, rel=0.04)
    draws = NegativeBinomial(torch.tensor(1.0), torch.tensor(0.5), torch.tensor(0.0)).sample((40_000,))
    assert draws.var().item() == pytest.approx(0.5 * (mean + mean**2 / dispersion + 0.5 * mean**2), rel=0.05)


def test_units_and_shapes() -> None:
    train = torch.tensor([[0.0, 3.0], [5.0, 4.0], [1.0, 11.0]])
    spec = NegativeBinomialLikelihood()
    assert spec.units(train) == Units(torch.tensor(4.0), train.std(correction=0))
    with pytest.raises(FlowvaeError, match="all counts are 0"):
        spec.units(torch.zeros(4, 2))
    with pytest.raises(FlowvaeError, match="dispersion = 'gene'"):
        NegativeBinomialLikelihood("gene")
    shape = Size((3, 4, 2))
    both = ZeroInflatedNegativeBinomialLikelihood("each")
    assert [one.parameter_shape(shape)[0] for one in (spec, NegativeBinomialLikelihood("each"), both)] == [3, 6, 9]
    likelihood = spec.build(Size((2,)), spec.units(train))
    assert {name: p.shape for name, p in likelihood.named_parameters()} == {"raw_dispersion": (2,)}
    torch.testing.assert_close(likelihood(torch.zeros(1, 2)).mean, torch.full((1, 2), 4.0))


@pytest.mark.parametrize("dispersion", [0.02, math.inf], ids=["mostly-zeros", "Poisson"])
def test_the_dispersion_is_learned_in_the_steps_of_a_short_training(dispersion: float) -> None:
    rng = np.random.default_rng(0)
    rate = 20.0 if math.isinf(dispersion) else rng.gamma(dispersion, 20 / dispersion, (2000, 1))
    x = torch.from_numpy(rng.poisson(rate, (2000, 1))).float()
    spec = NegativeBinomialLikelihood()
    likelihood = spec.build(Size((1,)), spec.units(x))
    h = torch.zeros(1)  # μ is the mean count, its maximum-likelihood estimate for any θ
    optim = torch.optim.Adam(likelihood.parameters(), 1e-3)
    for _ in range(1000):
        optim.zero_grad()
        (-likelihood(h).log_prob(x).mean()).backward()
        optim.step()
    counts = x.double().numpy()
    best = max(
        scipy.stats.nbinom.logpmf(counts, theta, theta / (theta + counts.mean())).mean()
        for theta in np.geomspace(1e-3, 1e4, 200)
    )
    assert likelihood(h).log_prob(x).mean().item() > best - 0.02


@pytest.mark.parametrize("extreme", [-1e4, 1e4])
def test_gradients_lead_away_from_the_bounds(extreme: float) -> None:
    spec = NegativeBinomialLikelihood("each")
    train = torch.tensor([[0.0], [9.0], [3.0]])
    h = torch.tensor([[extreme, 0.0], [0.0, -1e4]]).requires_grad_()
    spec.build(Size((1,)), spec.units(train))(h).log_prob(torch.tensor([[3.0], [4.0]])).sum().backward()
    assert h.grad is not None
    assert h.grad[0, 0].sign() == -np.sign(extreme)
    assert h.grad[1, 1] > 0  # a mean count near the mean speaks for less dispersion
