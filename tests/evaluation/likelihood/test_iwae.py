"""The bound against its number of samples: right where it can be, and what warns where it misleads."""

from __future__ import annotations

import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from known_evidence import MeanField, ppca

from flowvae import FlowvaeError
from flowvae.evaluation import AnnealedHMC, measure_ais, measure_iwae, measure_likelihoods, pareto_k, plot_bounds


def test_one_sample_is_the_elbo_and_all_are_the_likelihood() -> None:
    model, x, _ = ppca(9)
    guide = MeanField(model)
    result = measure_iwae(model, guide, x, (1, 300))
    other = measure_likelihoods(model, guide, x, 300)
    torch.testing.assert_close(result.bound[0], other.elbo.double(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(result.bound[1], other.log_evidence.double(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(result.effective_draws, other.effective_draws.double(), rtol=1e-3, atol=1e-3)


def test_bounds_tighten_by_the_predicted_bias() -> None:
    """χ² of Gaussians is known, so −χ²/(2K) is: the guide has the posterior's mean and twice its variances."""
    model, x, truth = ppca(64)
    guide = MeanField(model, factor=math.sqrt(2))
    posterior = model.precision().detach()
    q = torch.diag(posterior.diagonal() / 2)
    # E_q[(p/q)²] of p = N(0, Λ⁻¹), q = N(0, Q⁻¹): |Λ| / (|Q|^½ |2Λ − Q|^½)
    chi2 = (torch.logdet(posterior) - 0.5 * torch.logdet(q) - 0.5 * torch.logdet(2 * posterior - q)).exp() - 1
    result = measure_iwae(model, guide, x, (1, 25, 50, 200), draws=16_000)
    assert (result.bound.mean(1).diff() > 0).all()
    assert result.variance.mean().item() == pytest.approx(chi2.item(), rel=0.1)
    for row, number in ((1, 25), (2, 50)):
        error = (result.bound[row] - truth).mean().item()
        noise = result.standard_error[row].square().sum().sqrt().item() / 64
        assert noise < 0.1 * chi2 / number
        assert error == pytest.approx(-chi2.item() / (2 * number), abs=4 * noise)
        assert result.predicted_bias[row].mean().item() == pytest.approx(-chi2.item() / (2 * number), rel=0.1)


@pytest.mark.parametrize(("samples", "reference"), [(1, "elbo"), (1000, "evidence")])
def test_intervals_cover_the_truth(samples: int, reference: str) -> None:
    """128 repeats on one datum, with the spread of groups (K = 1) and the delta method (K = S)."""
    model, x, truth = ppca(1)
    guide = MeanField(model, factor=1.2)
    result = measure_iwae(model, guide, x.expand(128, -1), (samples,), draws=1000)
    expected = truth.double()
    if reference == "elbo":  # KL(q ‖ p) of Gaussians with the same mean
        posterior, q = model.posterior(x), guide.posterior(x).base_dist
        full = dist.MultivariateNormal(q.loc, torch.diag_embed(q.scale**2))
        expected = expected - torch.distributions.kl_divergence(full, posterior).detach().double()
    share = ((result.bound[0] - expected).abs() < 1.96 * result.standard_error[0]).double().mean().item()
    assert 0.90 < share < 0.99


def test_a_narrow_guide_misleads_and_is_found_out() -> None:
    """The bound is far off, its error bar small; k̂ and the effective draws warn, and AIS is not misled."""
    model, x, truth = ppca(16)
    guide = MeanField(model, factor=0.25)
    result = measure_iwae(model, guide, x, (100, 1000))
    error = result.bound[-1].mean() - truth.mean()
    stated = result.standard_error[-1].square().sum().sqrt() / 16
    assert error < -1
    assert error < -8 * stated
    precision = model.precision().detach()
    k = 1 - torch.linalg.eigvals(precision / (precision.diagonal() * 16)).real.min().item()  # exact for Gaussians
    assert result.pareto_k.mean().item() == pytest.approx(k, abs=0.15)
    assert (result.pareto_k > 0.7).double().mean() > 0.75  # noise at 1000 draws is about 0.2
    assert result.effective_draws.mean() < 0.05 * 1000
    ais = measure_ais(model, guide, x, AnnealedHMC(16, 150))
    stated = ais.standard_error.square().sum().sqrt() / 16
    assert stated < 0.1
    assert abs(ais.log_evidence.mean() - truth.mean()) < 4 * stated


def test_pareto_k_is_noisy_at_few_draws() -> None:
    """The true shape is 0.5: 100 draws call it bad (> 0.7) far more often than 4000 do."""
    torch.manual_seed(0)
    z = torch.randn(4000, 100, dtype=torch.float64)
    log_weight = dist.Normal(0.0, math.sqrt(2)).log_prob(z) - dist.Normal(0.0, 1.0).log_prob(z)
    few, many = pareto_k(log_weight[:100]), pareto_k(log_weight)
    assert few.std() > 1.5 * many.std()  # 3 were it not for the fit's own prior, which pulls few draws to 0.5
    assert (few > 0.7).sum() >= 8
    assert (many > 0.7).sum() <= 4


def test_chunks_and_seeds() -> None:
    model, x, _ = ppca(70)
    guide = MeanField(model)
    one, more = (measure_iwae(model, guide, part, (1, 30)) for part in (x[:64], x))
    assert torch.equal(one.bound, more.bound[:, :64])
    assert not torch.equal(one.bound, measure_iwae(model, guide, x[:64], (1, 30), seed=1).bound)


@pytest.mark.parametrize(("samples", "draws"), [((), None), ((0,), None), ((5, 5), None), ((1.5,), None), ((9,), 8)])
def test_samples_that_cannot_be_are_refused(samples: tuple[int, ...], draws: int | None) -> None:
    model, x, _ = ppca(2)
    with pytest.raises(FlowvaeError, match=r"samples|draws"):
        measure_iwae(model, MeanField(model), x, samples, draws)


def test_metrics_name_their_samples() -> None:
    model, x, _ = ppca(5)
    result = measure_iwae(model, MeanField(model), x, (50, 1))
    metrics = {m.name: m for m in result.metrics("test", {"seed": 0})}
    assert list(metrics)[:2] == ["iwae_1", "iwae_50"]
    assert metrics["iwae_50"].value == pytest.approx(result.bound[1].mean().item())
    assert metrics["iwae_50"].protocol == {"seed": 0, "draws": 50}


def test_figure_shows_every_estimate_with_units() -> None:
    model, x, truth = ppca(8)
    guide = MeanField(model)
    bounds, ais = measure_iwae(model, guide, x, (1, 10, 100)), measure_ais(model, guide, x, AnnealedHMC(4, 5))
    ax = plot_bounds(bounds, ais, truth, "pPCA").axes[0]
    assert "nats" in ax.get_ylabel()
    assert "K" in ax.get_xlabel()
    labels = {text.get_text() for text in ax.get_legend().get_texts()}
    assert {"importance-weighted bound", "AIS, 4 chains", "exact"} <= labels
    container = ax.containers[0]
    np.testing.assert_allclose(np.asarray(container.lines[0].get_ydata(), float), bounds.bound.mean(1))
    with pytest.raises(FlowvaeError, match="exact: 3 data"):
        plot_bounds(bounds, ais, truth[:3])
