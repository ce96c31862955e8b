"""The continuous Bernoulli against mpmath, near λ = 1/2 and far from it."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import torch
from torch import Tensor

from flowvae.models import ContinuousBernoulli

LOGITS = [0.0, 1e-12, 1e-6, -1e-3, 0.1, -0.9, 0.999, 1.0, -1.001, 3.0, -30.0, 200.0, -1e4]


def truth(logit: float, x: float) -> tuple[float, float, float]:
    """Log-density, its derivative with respect to the logit, and the mean, with 50 digits."""
    with mpmath.workdps(50):
        l = mpmath.mpf(logit)  # noqa: E741
        if l == 0:
            return 0.0, x - 0.5, 0.5
        mean = 1 / (1 - mpmath.exp(-l)) - 1 / l
        log_normalizer = mpmath.log(mpmath.expm1(l) / l)
        return float(l * x - log_normalizer), float(x - mean), float(mean)


@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-13), (torch.float32, 2e-7)])
@pytest.mark.parametrize("x", [0.0, 0.3, 1.0])
def test_density_derivative_and_mean(x: float, dtype: torch.dtype, close: float) -> None:
    logits = torch.tensor(LOGITS, dtype=dtype).requires_grad_()
    given = ContinuousBernoulli(logits)
    density, slope, mean = (
        torch.tensor(column, dtype=torch.float64) for column in zip(*(truth(v, x) for v in LOGITS), strict=True)
    )
    log_p = given.log_prob(torch.tensor(x, dtype=dtype).expand_as(logits))
    torch.testing.assert_close(log_p.double(), density, rtol=close, atol=5 * close)
    torch.testing.assert_close(given.mean.double(), mean, rtol=10 * close, atol=close)
    (found,) = torch.autograd.grad(log_p.sum(), logits)
    torch.testing.assert_close(found.double(), slope, rtol=10 * close, atol=10 * close)


def test_second_derivatives() -> None:
    logits = torch.tensor([0.0, 0.4, -0.99, 1.01, 5.0], dtype=torch.float64).requires_grad_()
    x = torch.full((5,), 0.2, dtype=torch.float64)

    def log_prob(logits: Tensor) -> Tensor:
        return ContinuousBernoulli(logits).log_prob(x)

    assert torch.autograd.gradcheck(log_prob, logits)
    assert torch.autograd.gradgradcheck(log_prob, logits)


@pytest.mark.parametrize("logit", [-800.0, -3.0, 0.0, 0.2, 3.0, 800.0])
def test_draws_have_its_distribution_function(logit: float) -> None:
    """F(x) = (eˡˣ − 1) / (eˡ − 1), by a test of Kolmogorov and Smirnov at a level of 1e-4."""
    torch.manual_seed(0)
    x = ContinuousBernoulli(torch.tensor(logit, dtype=torch.float64)).sample((4000,)).sort().values.numpy()
    expected = (
        x
        if logit == 0
        else (np.exp(logit * (x - (logit > 0))) - np.exp(-logit * (logit > 0)))
        / (np.exp(logit * (logit < 0)) - np.exp(-logit * (logit > 0)))
    )
    steps = np.arange(4001) / 4000
    distance = max(np.abs(expected - steps[1:]).max(), np.abs(expected - steps[:-1]).max())
    assert distance < 2.225 / 4000**0.5
