"""Bidirectional Monte Carlo: the sandwich holds the exact evidence."""

from __future__ import annotations

import pytest
import torch
from known_evidence import MeanField, ppca
from linear_pairs import Conditional, TwoLevels
from torch import Tensor

from flowvae import MAF, Digits, Experiment, FlowvaeError
from flowvae.evaluation import BDMC, AnnealedHMC, measure_bdmc
from flowvae.flows import RealNVP
from flowvae.guides import UniformNoise
from flowvae.models import DequantizedFlow
from flowvae.networks import MLP


def sandwich(temperatures: int) -> tuple[BDMC, torch.Tensor]:
    model, _, _ = ppca(1)
    result = measure_bdmc(model, MeanField(model, shift=0.5, factor=0.5), 128, AnnealedHMC(4, temperatures))
    with torch.no_grad():
        return result, model.log_evidence(result.x)


def test_bounds_hold_and_close() -> None:
    """The mean error of either bound has the right sign, beyond its standard error for short chains."""
    gaps = []
    for temperatures in (2, 10, 60):
        result, truth = sandwich(temperatures)
        below, above = truth - result.lower, result.upper - truth
        for error in (below, above):
            assert error.mean() > -3 * error.std() / 128**0.5
            if temperatures == 2:
                assert error.mean() > 3 * error.std() / 128**0.5
        gaps.append(result.gap.mean().item())
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 0.1 * gaps[0]


def test_both_directions_are_unbiased() -> None:
    """E[exp(lower)] = p(x) and E[exp(−upper)] = 1 / p(x), tested where the weights vary little."""
    model, _, _ = ppca(1)
    result = measure_bdmc(model, MeanField(model), 192, AnnealedHMC(30, 6))
    with torch.no_grad():
        truth = model.log_evidence(result.x)
    for ratio in ((result.lower - truth).exp(), (truth - result.upper).exp()):
        error = ratio.std() / len(ratio) ** 0.5
        assert abs(ratio.mean() - 1) < 4 * error
        assert error < 0.05


def test_a_single_datum_rarely_breaks_its_bound() -> None:
    """By b nats with a probability of at most exp(−b)."""
    result, truth = sandwich(2)
    for excess in (result.lower - truth, truth - result.upper):
        assert (excess > 2).double().mean() < 0.14 + 3 * (0.14 * 0.86 / 128) ** 0.5


def test_a_vae_with_a_flow_prior() -> None:
    data = Digits().load(0)
    pair = Experiment(latent=3, prior=MAF(2, (8,)), encoder=MLP((8,)), decoder=MLP((8,))).build(data)
    result = measure_bdmc(pair.model, pair.guide, 20, AnnealedHMC(8, 30))
    assert result.x.shape == (20, 1, 8, 8)
    gap = result.gap
    assert -3 * gap.std() / 20**0.5 < gap.mean() < 0.5


def test_chunks_and_seeds() -> None:
    model, _, _ = ppca(1)
    guide, settings = MeanField(model), AnnealedHMC(2, 3)
    one, more = (measure_bdmc(model, guide, size, settings) for size in (64, 70))
    assert torch.equal(one.x, more.x[:64])
    assert torch.equal(one.upper, more.upper[:64])
    assert not torch.equal(one.lower, measure_bdmc(model, guide, 64, settings, seed=1).lower)


def test_metrics_and_refusals() -> None:
    model, _, _ = ppca(1)
    result = measure_bdmc(model, MeanField(model), 8, AnnealedHMC(2, 3))
    metrics = {m.name: m for m in result.metrics("simulated", {"seed": 0})}
    difference = metrics["bdmc_upper"].value - metrics["bdmc_lower"].value
    assert metrics["bdmc_gap"].value == pytest.approx(difference)
    assert metrics["bdmc_gap"].protocol["simulated"] == 8
    with pytest.raises(FlowvaeError, match="size = 0"):
        measure_bdmc(model, MeanField(model), 0)


@pytest.mark.usefixtures("float64")
def test_two_latent_sites() -> None:
    pair = TwoLevels(shift=0.2, factor=1.2)
    result = measure_bdmc(pair.model, pair.guide, 24, AnnealedHMC(16, 60, 4))
    truth = pair.log_evidence(result.x)
    assert result.gap.mean() < 0.1
    for bound, sign in ((result.lower, 1), (result.upper, -1)):
        below = sign * (truth - bound)
        assert below.mean() > -3 * below.std() / 24**0.5
        assert below.abs().max() < 0.5


@pytest.mark.usefixtures("float64")
def test_data_simulated_given_conditions() -> None:
    pair = Conditional(factor=1.2)
    c = torch.eye(3)[torch.arange(70) % 3]
    result = measure_bdmc(pair.model, pair.guide, 70, AnnealedHMC(8, 30, 4), c=c)
    truth = pair.log_evidence(result.x, c)
    assert (truth - result.lower).abs().mean() < 0.15
    assert (truth - result.upper).abs().mean() < 0.15
    with pytest.raises(FlowvaeError, match=r"size = 9.*70"):
        measure_bdmc(pair.model, pair.guide, 9, c=c)


def test_a_model_that_does_not_return_what_it_simulates_is_refused() -> None:
    pair = TwoLevels()

    def silent(x: Tensor | None = None, size: int | None = None) -> None:
        pair.model(x, size)

    with pytest.raises(FlowvaeError, match=r"size=5.*None"):
        measure_bdmc(silent, pair.guide, 5)


def test_a_model_that_simulates_by_other_sites_is_refused() -> None:
    model = DequantizedFlow(RealNVP(hidden_features=(8,)).transform(3), 3, 16)
    with pytest.raises(FlowvaeError, match="'noise'"):
        measure_bdmc(model, UniformNoise(), 5)
