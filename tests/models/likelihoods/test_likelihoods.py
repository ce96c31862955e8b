"""Likelihoods against SciPy and torch: densities, means, units, and their text forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Size, Tensor

from flowvae.core.errors import FlowvaeError
from flowvae.core.parts import LikelihoodSpec, Units, parse_likelihood
from flowvae.data import Sprites
from flowvae.models import (
    BernoulliLikelihood,
    BinomialLikelihood,
    CategoricalLikelihood,
    GaussianLikelihood,
    Likelihood,
    PoissonLikelihood,
)
from flowvae.models.likelihoods.bounded_counts import LARGEST_TOTAL


def built(spec: LikelihoodSpec, train: Tensor) -> Likelihood:
    return spec.build(train.shape[1:], spec.units(train))  # type: ignore[return-value]


def test_a_gaussian_takes_no_units_from_one_row() -> None:
    with pytest.raises(FlowvaeError, match="1 row"):
        GaussianLikelihood().units(torch.zeros(1, 3))


@pytest.mark.parametrize("text", ["gaussian:0.123456789", "categorical:256", "pixelcnn:255:layers=3:kernel=5"])
def test_likelihoods_have_a_text_form(text: str) -> None:
    assert str(parse_likelihood(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "bernouli",
        "binomial",
        "binomial:x",
        "binomial:0",
        "binomial:",
        "gaussian:-1",
        "gaussian:x",
        "bernoulli:2",
        "poisson:1",
        "categorical:1",
        "student-t:1",
        "negative-binomial:all",
        "logistic-mixture",
        "logistic-mixture:255:5",
        "logistic-mixture:255:total=255",
        "gaussian:each:scale=each",
        "",
    ],
)
def test_wrong_likelihoods_are_refused(text: str) -> None:
    with pytest.raises(FlowvaeError):
        parse_likelihood(text)


@pytest.mark.parametrize("total", [LARGEST_TOTAL + 1, 10**9, 10**18])
def test_counts_that_float32_cannot_score_are_refused(total: int) -> None:
    with pytest.raises(FlowvaeError, match=rf"total = {str(total)[:5]}.*65536"):
        BinomialLikelihood(total)


def test_the_largest_counts_are_scored_to_a_hundredth_of_a_nat() -> None:
    counts = np.arange(0, LARGEST_TOTAL + 1, 64)
    likelihood = built(BinomialLikelihood(LARGEST_TOTAL), torch.zeros(2, 1))
    found = likelihood(torch.full((len(counts), 1), 0.3)).log_prob(torch.tensor(counts).float()[:, None])
    expected = scipy.stats.binom.logpmf(counts, LARGEST_TOTAL, 1 / (1 + math.exp(-0.3)))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=0.01)


@pytest.mark.parametrize("total", [1, 16, 255])
def test_binomial_likelihood_agrees_with_scipy_for_every_count(total: int) -> None:
    counts = torch.arange(total + 1, dtype=torch.float64)
    logits = torch.tensor([-60.0, -3.0, 0.0, 0.5, 40.0], dtype=torch.float64).unsqueeze(-1)
    torch.set_default_dtype(torch.float64)
    try:
        likelihood = built(BinomialLikelihood(total), counts.unsqueeze(-1))
    finally:
        torch.set_default_dtype(torch.float32)
    of_counts = likelihood(logits.expand(5, total + 1).unsqueeze(-1)).log_prob(counts.unsqueeze(-1))
    # SciPy takes the probability of a success or of a failure, whichever is small enough to be exact
    success, failure = logits.sigmoid().numpy(), (-logits).sigmoid().numpy()
    expected = np.where(
        logits.numpy() < 0,
        scipy.stats.binom.logpmf(counts.numpy(), total, success),
        scipy.stats.binom.logpmf(total - counts.numpy(), total, failure),
    )
    np.testing.assert_allclose(of_counts.numpy(), expected, rtol=1e-11, atol=1e-11)


def test_binomial_likelihood_spreads_over_a_plate_and_has_a_mean() -> None:
    likelihood = built(BinomialLikelihood(16), torch.zeros(1, 3))
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    spread = likelihood(logits).expand((2, 5))
    x = torch.tensor([0.0, 7.0, 16.0])
    assert spread.log_prob(x).shape == (2, 5)
    torch.testing.assert_close(spread.log_prob(x)[1], likelihood(logits).log_prob(x))
    torch.testing.assert_close(spread.mean[0], likelihood.mean(logits))


def test_gaussian_likelihood_is_in_the_units_of_the_data() -> None:
    train = torch.randn(500, 3) * torch.tensor([1.0, 100.0, 0.01]) + torch.tensor([0.0, 5.0, -3.0])
    likelihood = built(GaussianLikelihood(scale=None), train)
    outputs = torch.randn(7, 3)
    expected = torch.distributions.Normal(train.mean(0) + train.std(0) * outputs, train.std(0))
    x = torch.randn(7, 3)
    torch.testing.assert_close(likelihood(outputs).log_prob(x), expected.log_prob(x).sum(-1))
    fixed = built(GaussianLikelihood(scale=0.3), train)
    expected = torch.distributions.Normal(train.mean(0) + train.std(0).clamp_min(0.3) * outputs, 0.3)
    torch.testing.assert_close(fixed(outputs).log_prob(x), expected.log_prob(x).sum(-1), rtol=1e-4, atol=1e-4)


def test_settings_of_likelihoods_may_be_numpy_s() -> None:
    assert str(BinomialLikelihood(np.int64(8))) == "binomial:8"  # type: ignore[arg-type]
    assert str(GaussianLikelihood(np.float32(0.5))) == "gaussian:0.5"  # type: ignore[arg-type]
    assert type(Sprites(side=np.int64(16)).side) is int  # type: ignore[arg-type]
    with pytest.raises(FlowvaeError, match=r"side = 16\.0"):
        Sprites(side=16.0)  # type: ignore[arg-type]


@pytest.mark.usefixtures("float64")
def test_poisson_agrees_with_scipy_and_is_in_units_of_the_mean_count() -> None:
    train = torch.tensor([[0.0, 3.0], [5.0, 4.0], [1.0, 11.0]])  # of the mean 4
    likelihood = built(PoissonLikelihood(), train)
    counts = torch.arange(60.0)
    for h in (-3.0, 0.0, 1.7):
        found = likelihood(torch.full((60, 1), h)).log_prob(counts[:, None])
        np.testing.assert_allclose(found.numpy(), scipy.stats.poisson.logpmf(counts, 4 * math.exp(h)), rtol=1e-10)
    assert likelihood.center == 4
    assert likelihood.unit == pytest.approx(train.std(correction=0).item())
    for extreme in (-1e4, 1e4):  # a rate that float64 cannot hold
        h = torch.full((1,), extreme, requires_grad=True)
        likelihood(h).log_prob(torch.tensor([3.0])).backward()
        assert h.grad is not None
        assert h.grad.isfinite().all()
        assert h.grad.sign() == -math.copysign(1, extreme)
    with pytest.raises(FlowvaeError, match="all counts are 0"):
        PoissonLikelihood().units(torch.zeros(4, 2))


@pytest.mark.usefixtures("float64")
def test_categorical_has_a_probability_for_each_number() -> None:
    """The logits of the number k are channels k C to (k + 1) C, as cross-entropy over (N, K, C, H, W) takes them."""
    spec, shape = CategoricalLikelihood(4), Size((2, 3, 1))
    assert spec.parameter_shape(shape) == (8, 3, 1)
    x, outputs = torch.randint(0, 4, (6, *shape)).double(), torch.randn(6, 8, 3, 1)
    given = built(spec, x)(outputs)
    expected = -torch.nn.functional.cross_entropy(outputs.reshape(6, 4, 2, 3, 1), x.long(), reduction="none")
    torch.testing.assert_close(given.log_prob(x), expected.flatten(1).sum(1))
    each = torch.stack([given.base_dist.log_prob(torch.full_like(x, float(k))) for k in range(4)])
    torch.testing.assert_close(each.logsumexp(0), torch.zeros_like(x))


@pytest.mark.parametrize(
    ("spec", "inside", "outside"),
    [
        (PoissonLikelihood(), [0.0, 1.0, 65536.0], [-1.0, 0.5, 65537.0]),
        (CategoricalLikelihood(3), [0.0, 1.0, 2.0], [-1.0, 0.5, 3.0]),
        (BinomialLikelihood(2), [0.0, 1.0, 2.0], [-1.0, 0.5, 3.0]),
        (BernoulliLikelihood(), [0.0, 1.0], [-1.0, 0.5, 2.0]),
    ],
    ids=str,
)
def test_values_outside_the_support_are_violations(
    spec: LikelihoodSpec, inside: list[float], outside: list[float]
) -> None:
    assert not spec.violations(torch.tensor(inside)).any()
    assert spec.violations(torch.tensor(outside)).all()


def test_large_counts_of_a_poisson_have_precise_log_probabilities() -> None:
    rates, counts = torch.tensor([1.0, 300.0, 60_000.0]), torch.tensor([0.0, 290.0, 65_536.0])
    likelihood = PoissonLikelihood().build(Size((3,)), Units(torch.ones(()), torch.ones(())))
    parameters = rates.log()
    expected = scipy.stats.poisson.logpmf(counts.numpy(), parameters.double().exp().numpy()).sum()
    assert likelihood(parameters).log_prob(counts).item() == pytest.approx(expected, abs=3e-3)
