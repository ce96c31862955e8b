"""Sums over events of counts against SciPy and float64, with their derivatives."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from torch import Size, Tensor

from flowvae.core.parts import LikelihoodSpec
from flowvae.models import BernoulliLikelihood, BinomialLikelihood, Likelihood, PoissonLikelihood
from flowvae.models.likelihoods.event_sum import EventSum, logit_sum

FAMILIES: dict[str, LikelihoodSpec] = {
    "bits": BernoulliLikelihood(),
    "grey": BinomialLikelihood(255),
    "rates": PoissonLikelihood(),
}


def built(spec: LikelihoodSpec, shape: tuple[int, ...]) -> Likelihood:
    return spec.build(Size(shape), spec.units(torch.full((1, *shape), 3.0)))  # type: ignore[return-value]


def truth(logits: Tensor, value: Tensor, trials: int = 1) -> Tensor:
    h, x = logits.double().numpy(), value.double().numpy()
    return torch.tensor((x * h - trials * np.logaddexp(0, h)).sum(-1))


@pytest.mark.parametrize("trials", [1, 7, 255])
@pytest.mark.parametrize("size", [1, 2, 3, 63, 64, 65, 127, 128, 130, 784])
def test_the_sum_of_any_number_of_values(size: int, trials: int) -> None:
    generator = torch.Generator().manual_seed(size)
    logits = 5 * torch.randn(40, size, dtype=torch.float64, generator=generator)
    value = trials * torch.rand(40, size, dtype=torch.float64, generator=generator)  # any real numbers
    torch.testing.assert_close(logit_sum(logits, value, trials), truth(logits, value, trials), rtol=1e-13, atol=1e-12)


@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0, 1000.0])
def test_bits_are_as_exact_as_float32(scale: float) -> None:
    logits = scale * torch.randn(500, 784, generator=torch.Generator().manual_seed(0))
    value = (torch.rand(500, 784, generator=torch.Generator().manual_seed(1)) < logits.sigmoid()).float()
    expected = truth(logits, value)
    error = (logit_sum(logits, value).double() - expected).abs()
    assert (error <= 3e-7 * expected.abs() + 1e-30).all()


def test_certain_bits_keep_their_small_terms() -> None:
    """784 pixels of probability 1e-9: one in float32, but their logarithms are not 0."""
    logits = torch.full((1, 784), -math.log(1e9))
    assert logit_sum(logits, torch.zeros(1, 784)).item() == pytest.approx(-784e-9, rel=1e-5)
    wrong = logit_sum(logits, torch.ones(1, 784)).item()
    assert wrong == pytest.approx(-784 * math.log(1e9), rel=1e-6)


def test_grey_levels_are_as_exact_as_one_by_one() -> None:
    """The sum of the kernels and that of the coefficients are 130,000 nats each, and their difference 2700."""
    logits = 0.3 * torch.randn(200, 784, generator=torch.Generator().manual_seed(0))
    x = torch.tensor(scipy.stats.binom.rvs(255, logits.sigmoid().numpy(), random_state=0)).float()
    found = built(BinomialLikelihood(255), (784,))(logits).log_prob(x)
    coefficients = scipy.special.gammaln(256.0) - sum(
        scipy.special.gammaln(part.double().numpy() + 1) for part in (x, 255 - x)
    )
    expected = truth(logits, x, 255) + torch.tensor(coefficients.sum(-1))
    assert (found.double() - expected).abs().max() < 4e-3


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("shape", [(5,), (2, 3, 2)], ids=str)
def test_events_broadcast_and_spread_as_single_values(name: str, shape: tuple[int, ...]) -> None:
    likelihood = built(FAMILIES[name], shape)
    parameters = torch.randn(4, 3, *shape)
    x = likelihood(parameters[0]).sample()
    found = likelihood(parameters)
    assert isinstance(found, EventSum)
    singles = found.base_dist
    expected = singles.log_prob(x.expand_as(parameters)).flatten(2).sum(-1)
    torch.testing.assert_close(found.log_prob(x), expected)
    torch.testing.assert_close(found.expand((2, 4, 3)).log_prob(x)[1], expected)
    one = parameters[0, 0]  # a batch of data under the parameters of one event
    torch.testing.assert_close(likelihood(one).log_prob(x), likelihood(one.expand_as(x)).log_prob(x))
    rows = likelihood(parameters.flatten(0, 1))
    repeated = x.expand_as(parameters).flatten(0, 1)
    torch.testing.assert_close(rows.log_prob_repeated(repeated, 3).unflatten(0, (4, 3)), expected)


@pytest.mark.parametrize("trials", [1, 16])
def test_derivatives_of_all_orders(trials: int) -> None:
    logits = torch.randn(3, 5, dtype=torch.float64).requires_grad_()
    value = torch.rand(3, 5, dtype=torch.float64).requires_grad_()
    function = partial(logit_sum, trials=trials)
    assert torch.autograd.gradcheck(function, (logits, value))
    assert torch.autograd.gradgradcheck(function, (logits, value))


def test_a_gradient_in_float32() -> None:
    logits = torch.randn(3, 70).requires_grad_()
    x = torch.randint(0, 17, (3, 70)).float()
    built(BinomialLikelihood(16), (70,))(logits).log_prob(x).sum().backward()
    torch.testing.assert_close(logits.grad, x - 16 * logits.detach().sigmoid())


def test_sums_under_vmap() -> None:
    logits, value = torch.randn(4, 3, 5), torch.rand(3, 5)
    found = torch.func.vmap(partial(logit_sum, value=value))(logits)
    torch.testing.assert_close(found, logit_sum(logits, value.expand(4, 3, 5)))
