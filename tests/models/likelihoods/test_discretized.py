"""Discretized logistics against differences of sigmoids with 50 digits, and their means against sums."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch
from torch import Tensor

from flowvae.core.errors import FlowvaeError
from flowvae.core.parts import parse_likelihood
from flowvae.models import DiscretizedLogistic, LogisticMixture
from flowvae.models.likelihoods.discretized import bin_log_prob


def truth(x: int, loc: float, log_scale: float, total: int) -> float:
    with mpmath.workdps(2500):
        y, scale = mpmath.mpf(2 * x) / total - 1, mpmath.exp(mpmath.mpf(log_scale))
        high = 1 if x == total else 1 / (1 + mpmath.exp(-(y + mpmath.mpf(1) / total - loc) / scale))
        low = 0 if x == 0 else 1 / (1 + mpmath.exp(-(y - mpmath.mpf(1) / total - loc) / scale))
        return float(mpmath.log(high - low))


@pytest.mark.parametrize("total", [1, 3, 255])
@pytest.mark.parametrize("log_scale", [-7.0, -3.0, 0.0, 4.0])
@pytest.mark.parametrize("loc", [-1.5, -0.3, 0.0, 1.0])
def test_log_probabilities(loc: float, log_scale: float, total: int) -> None:
    counts = sorted({0, 1, total // 3, total - 1, total})
    expected = torch.tensor([truth(x, loc, log_scale, total) for x in counts], dtype=torch.float64)
    for dtype, close in ((torch.float64, 1e-12), (torch.float32, 3e-4)):
        x, mu, log_s = (torch.tensor(v, dtype=dtype) for v in (counts, loc, log_scale))
        torch.testing.assert_close(bin_log_prob(x, mu, log_s, total).double(), expected, rtol=close, atol=close)


def test_derivatives_of_all_orders() -> None:
    value = torch.tensor([0.0, 0, 1, 2, 3, 4, 5, 5], dtype=torch.float64)
    loc, log_scale = torch.randn(2, 8, dtype=torch.float64).unbind()

    def function(loc: Tensor, log_scale: Tensor) -> Tensor:
        return bin_log_prob(value, loc, log_scale, 5)

    inputs = (loc.requires_grad_(), log_scale.requires_grad_())
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)
    found = torch.func.vmap(lambda x: bin_log_prob(value, x, log_scale.detach(), 5))(torch.randn(3, 8).double())
    assert found.shape == (3, 8)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("total", [1, 2, 9, 10, 11, 255])
def test_means(total: int) -> None:
    """To 0.002 counts, with scales from a thousandth of a count to a thousand."""
    loc, log_bins = torch.meshgrid(torch.linspace(-2, 2, 41), torch.linspace(-7, 7, 57), indexing="ij")
    given = DiscretizedLogistic(loc, log_bins + math.log(2 / total), total)
    x = torch.arange(total + 1.0).view(-1, 1, 1)
    assert (given.mean - (given.log_prob(x).exp() * x).sum(0)).abs().max() < 2e-3


def test_one_component_is_a_logistic() -> None:
    loc, log_scale, x = torch.randn(7), torch.randn(7), torch.arange(7.0)
    one = LogisticMixture(torch.zeros(7, 1), loc[:, None], log_scale[:, None], 6)
    torch.testing.assert_close(one.log_prob(x), DiscretizedLogistic(loc, log_scale, 6).log_prob(x))


def test_it_starts_with_the_spread_of_the_data() -> None:
    """With outputs 0: the mean and the standard deviation of the training counts."""
    train = torch.randint(60, 120, (2000, 4)).float()
    spec = parse_likelihood("discretized-logistic:255")
    given = spec.build(train.shape[1:], spec.units(train))(torch.zeros(1, 8))
    draws = given.sample((4000,))
    assert draws.mean().item() == pytest.approx(train.mean().item(), abs=1)
    assert draws.std().item() == pytest.approx(train.std().item(), rel=0.05)


@pytest.mark.parametrize("name", ["discretized-logistic", "logistic-mixture", "pixelcnn"])
def test_wrong_totals(name: str) -> None:
    for text in (f"{name}:0", f"{name}:2.5", f"{name}:65537"):
        with pytest.raises(FlowvaeError, match=text.partition(":")[2]):
            parse_likelihood(text)
    with pytest.raises(FlowvaeError, match=r"scale = 'all'.*each.*shared"):
        parse_likelihood("discretized-logistic:3:scale=all")
    with pytest.raises(FlowvaeError, match="components = 0"):
        parse_likelihood("logistic-mixture:3:components=0")
