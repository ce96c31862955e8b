"""ELBO and NLL over any latent sites, against exact log-evidence."""

from __future__ import annotations

import math

import pytest
import torch
from linear_pairs import Conditional, TwoLevels

from flowvae import Experiment
from flowvae.data import Batch, Dataset
from flowvae.evaluation import (
    MEASURES,
    EvaluationContext,
    Likelihoods,
    likelihood_metrics,
    measure_iwae,
    measure_likelihoods,
)
from flowvae.networks import MLP

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("shape", [(5,), (1, 4, 4)], ids=str)
def test_two_levels_with_exact_conditionals_have_the_exact_elbo(shape: tuple[int, ...]) -> None:
    pair = TwoLevels(shape)
    x = pair.data(70)  # more than a block
    assert x.shape == (70, *shape)
    truth = pair.log_evidence(x)
    result = measure_likelihoods(pair.model, pair.guide, x, draws=3)
    torch.testing.assert_close(result.elbo, truth, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(result.log_evidence, truth, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(result.effective_draws, torch.full((70,), 3.0))


def test_two_levels_with_an_inexact_guide() -> None:
    pair = TwoLevels(shift=0.15, factor=1.15)
    x = pair.data(40)
    truth = pair.log_evidence(x)
    result = measure_likelihoods(pair.model, pair.guide, x, draws=1000)
    bounds = measure_iwae(pair.model, pair.guide, x, (1, 1000))
    error = result.log_evidence - truth
    assert abs(error.mean()) < 4 * bounds.standard_error[-1].square().sum().sqrt() / 40
    assert error.abs().max() < 0.2
    assert (result.elbo < truth).all()
    torch.testing.assert_close(bounds.bound[0], result.elbo, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(bounds.bound[1], result.log_evidence, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("compile", ["none", "capture"])
def test_the_likelihood_given_a_condition(compile: str) -> None:  # noqa: A002
    exact, inexact = Conditional(), Conditional(factor=1.2)
    c = torch.eye(3)[torch.arange(70) % 3]
    torch.manual_seed(0)
    x = exact.model(c=c, size=70)
    truth = exact.log_evidence(x, c)
    result = measure_likelihoods(exact.model, exact.guide, Batch(x, c), draws=3, compile=compile)
    torch.testing.assert_close(result.elbo, truth, rtol=1e-10, atol=1e-10)
    other = measure_likelihoods(exact.model, exact.guide, Batch(x, c.roll(1, 0)), draws=3)
    torch.testing.assert_close(other.elbo, exact.log_evidence(x, c.roll(1, 0)), rtol=1e-10, atol=1e-10)
    assert (other.elbo - truth).abs().max() > 1
    near = measure_likelihoods(inexact.model, inexact.guide, Batch(x, c), draws=1000, compile=compile)
    torch.testing.assert_close(near.log_evidence, truth, rtol=0, atol=0.1)


def test_bits_per_dim_by_hand() -> None:
    """Two images of eight pixels, of which a code takes 2 and 6 bits each."""
    zeros = torch.zeros(2)
    log_p = -math.log(2) * torch.tensor([16.0, 48.0])
    result = Likelihoods(log_p, zeros, log_p, zeros + 100, zeros)
    found = {m.name: m for m in likelihood_metrics(result, 8, True, "test", {"draws": 100})}
    bits = found["bits_per_dim"]
    assert bits.value == pytest.approx(4)
    assert bits.se == pytest.approx(2)  # of 2 and 6: a standard deviation of √8, over √2
    assert (bits.unit, bits.protocol) == ("bits/dim", {"draws": 100})
    assert found["nll"].value == pytest.approx(32 * math.log(2))
    assert "bits_per_dim" not in {m.name for m in likelihood_metrics(result, 8, False, "test", {})}


@pytest.mark.parametrize(
    ("likelihood", "dequantized", "shown"),
    [
        ("binomial:7", False, True),
        ("logistic-mixture:7", False, True),
        ("negative-binomial", False, True),
        ("gaussian:shared", True, True),
        ("gaussian:shared", False, False),
    ],
)
def test_bits_per_dim_are_of_counts_and_of_dequantized_counts(likelihood: str, dequantized: bool, shown: bool) -> None:
    x = torch.randint(0, 8, (60, 5), generator=torch.Generator().manual_seed(0)).double()
    if not likelihood.startswith(("binomial", "logistic", "negative")):
        x = x + torch.rand(x.shape, generator=torch.Generator().manual_seed(1))
    parts = x.split(20)
    data = Dataset(*parts, likelihood, "toy", "none", "in order", dequantized=dequantized)  # type: ignore[arg-type]
    pair = Experiment(latent=2, encoder=MLP((4,)), decoder=MLP((4,))).build(data)
    context = EvaluationContext(*pair, data, "test", 20, 0, {"measure": "its name"})
    found = {m.name: m for m in MEASURES["likelihood"](context).metrics}
    assert ("bits_per_dim" in found) is shown
    if shown:
        assert found["bits_per_dim"].value == pytest.approx(found["nll"].value / 5 / math.log(2))
        assert found["bits_per_dim"].protocol["draws"] == 20
