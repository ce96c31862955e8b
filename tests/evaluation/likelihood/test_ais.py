"""Annealed importance sampling where log p(x) is known: exactly, or by an integral over two latents."""

from __future__ import annotations

import math

import pytest
import torch
from known_evidence import MeanField, bent, ppca
from linear_pairs import Conditional, TwoLevels

from flowvae import MAF, Digits, Experiment, FlowvaeError
from flowvae.data import Batch
from flowvae.evaluation import AnnealedHMC, log_mean, measure_ais, measure_iwae
from flowvae.evaluation.likelihood import sampler
from flowvae.evaluation.likelihood.annealed_hmc import ACCEPTANCE, AnnealingPath, schedule
from flowvae.flows import IAF, FlowSpec, Planar
from flowvae.guides import FlowGuide
from flowvae.inference import log_joint
from flowvae.inference.compile import replay
from flowvae.networks import MLP


@pytest.mark.parametrize("start", ["gaussian", "guide", "prior"])
@pytest.mark.parametrize("temperatures", [1, 2, 6])
def test_weights_are_unbiased_at_any_length(start: str, temperatures: int) -> None:
    """E[w] = p(x), tested with a guide that is off by a third of a unit; the data are those of ordinary density."""
    model, x, truth = ppca(40)
    typical = truth.argsort(descending=True)[:20]
    guide = MeanField(model, shift=0.3, factor=1.2)
    result = measure_ais(model, guide, x[typical], AnnealedHMC(1500, temperatures, 2, start))
    ratio = (result.log_weight - truth[typical]).exp()  # 30 000 weights, each of mean 1
    error = (ratio.mean() - 1) / (ratio.std() / math.sqrt(ratio.numel()))
    assert abs(error) < 4
    assert ratio.std() / math.sqrt(ratio.numel()) < 0.1  # so that a bias would show


def test_error_falls_with_length() -> None:
    model, x, truth = ppca(32)
    guide = MeanField(model, shift=0.5, factor=0.5)
    errors = []
    for temperatures in (1, 5, 25, 100):
        result = measure_ais(model, guide, x, AnnealedHMC(8, temperatures))
        errors.append((result.log_evidence - truth).square().mean().sqrt().item())
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 5


def test_intervals_cover_the_truth() -> None:
    """128 repeats on one datum: 1.96 standard errors cover log p(x) in 95 % of them (binomial spread: 1.9 %)."""
    model, x, truth = ppca(1)
    result = measure_ais(model, MeanField(model, shift=0.3), x.expand(128, -1), AnnealedHMC(100, 12))
    error = result.log_evidence - truth
    assert result.standard_error.max() < 0.3
    share = (error.abs() < 1.96 * result.standard_error).double().mean().item()
    assert 0.90 < share < 0.99
    assert result.standard_error.mean().item() == pytest.approx(error.std().item(), rel=0.25)


def test_intervals_of_few_skewed_weights_miss_the_truth_from_below() -> None:
    """Where the standard error is above 0.3 it is not to be believed, as its documentation says."""
    model, x, truth = ppca(1)
    result = measure_ais(model, MeanField(model, factor=0.1), x.expand(128, -1), AnnealedHMC(4, 2))
    error = result.log_evidence - truth
    assert result.standard_error.mean() > 0.3
    assert (error < -1.96 * result.standard_error).double().mean() > 0.5
    assert (error > 1.96 * result.standard_error).double().mean() < 0.025


@pytest.mark.parametrize("start", ["gaussian", "guide", "prior"])
def test_nonlinear_decoder_against_an_integral(start: str) -> None:
    """Flow prior, IAF guide with random weights: all starts agree with the sum over a grid of two latents."""
    pair, x, truth = bent(FlowGuide(IAF(2, (8,))), 12)
    result = measure_ais(pair.model, pair.guide, x, AnnealedHMC(32, 60, 4, start))
    assert result.standard_error.mean() < 0.1
    assert ((result.log_evidence - truth).abs() / result.standard_error).max() < 4
    assert (result.acceptance - ACCEPTANCE).abs().max() < 0.1


def test_importance_weighted_bound_agrees() -> None:
    pair, x, truth = bent(FlowGuide(IAF(2, (8,))), 12)
    bounds = measure_iwae(pair.model, pair.guide, x, (10_000,))
    ais = measure_ais(pair.model, pair.guide, x, AnnealedHMC(32, 60, 4))
    sure = bounds.pareto_k < 0.7
    assert sure.sum() >= 6
    for reference, own in ((truth, torch.zeros(12)), (ais.log_evidence, ais.standard_error)):
        error = (own**2 + bounds.standard_error[0] ** 2).sqrt()
        assert ((bounds.bound[0] - reference).abs() / error)[sure].max() < 4


@pytest.mark.parametrize("flow", [IAF(2, (8,)), Planar(2)], ids=["iaf", "planar"])
@pytest.mark.parametrize("start", ["gaussian", "guide", "prior"])
def test_every_start_with_flow_guides_and_priors(flow: FlowSpec, start: str) -> None:
    """Untrained, on counts: finite figures, and nothing left behind in model or guide."""
    data = Digits().load(0)
    pair = Experiment(latent=3, prior=MAF(2, (8,)), guide=FlowGuide(flow), encoder=MLP((8,)), decoder=MLP((8,))).build(
        data
    )
    result = measure_ais(pair.model, pair.guide, data.test[:5], AnnealedHMC(3, 4, 2, start))
    assert result.log_weight.isfinite().all()
    assert result.log_weight.dtype == torch.float64
    assert all(p.grad is None and p.requires_grad for part in pair for p in part.parameters())


def test_chunks_and_seeds() -> None:
    model, x, _ = ppca(70)
    guide, settings = MeanField(model), AnnealedHMC(3, 5)
    one = measure_ais(model, guide, x[:64], settings)
    assert torch.equal(one.log_weight, measure_ais(model, guide, x, settings).log_weight[:, :64])
    assert not torch.equal(one.log_weight, measure_ais(model, guide, x[:64], settings, seed=1).log_weight)
    before = torch.get_rng_state()
    measure_ais(model, guide, x[:3], settings)
    assert torch.equal(before, torch.get_rng_state())


def test_the_schedule_is_a_sigmoid() -> None:
    betas = torch.tensor(schedule(50), dtype=torch.float64)
    assert betas[0] == 0
    assert betas[-1] == 1
    steps = betas.diff()
    assert (steps > 0).all()
    torch.testing.assert_close(steps, steps.flip(0))
    assert steps[25] > 10 * steps[0]
    assert schedule(1) == [0.0, 1.0]


def test_log_mean_of_weights_that_are_known() -> None:
    """Weights 1 and 3: mean 2, variance 1, and what one weight among zeros says."""
    value, variance = log_mean(torch.tensor([[1.0, 0.0], [3.0, 5.0], [1.0, 0.0], [3.0, 0.0]]).log())
    torch.testing.assert_close(value.exp(), torch.tensor([2.0, 1.25], dtype=torch.float64))
    torch.testing.assert_close(variance, torch.tensor([0.25, 3.0], dtype=torch.float64))


def test_metrics_say_how_they_were_made() -> None:
    model, x, _ = ppca(6)
    result = measure_ais(model, MeanField(model), x, AnnealedHMC(5, 4))
    metrics = {m.name: m for m in result.metrics("test", {"seed": 0})}
    nll = metrics["nll_ais"]
    assert nll.value == pytest.approx(-result.log_evidence.mean().item())
    assert nll.se is not None
    assert nll.protocol["ais"] == {"chains": 5, "temperatures": 4, "leapfrog": 5, "start": "gaussian"}
    expected = (result.standard_error**2).sum().sqrt().item() / 6
    assert metrics["nll_ais_error"].value == pytest.approx(expected)
    assert 1 <= metrics["ais_effective_chains"].value <= 5


@pytest.mark.parametrize("settings", [{"chains": 1}, {"temperatures": 0}, {"leapfrog": 0}, {"start": "posterior"}])
def test_settings_that_cannot_work_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(FlowvaeError, match=f"AnnealedHMC.{next(iter(settings))}"):
        AnnealedHMC(**settings)  # type: ignore[arg-type]


def test_broken_pairs_are_refused() -> None:
    model, x, _ = ppca(3)
    with pytest.raises(FlowvaeError, match=r"guide: .*not finite"):
        measure_ais(model, MeanField(model, shift=math.nan), x, AnnealedHMC(3, 2))
    guide = MeanField(model)
    good = guide.posterior(x)
    guide.posterior = lambda x: good  # type: ignore[method-assign]
    model.center.data.fill_(math.nan)
    with pytest.raises(FlowvaeError, match="NaN"):
        measure_ais(model, guide, x, AnnealedHMC(3, 2))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("start", ["gaussian", "guide", "prior"])
def test_two_latent_sites(start: str) -> None:
    pair = TwoLevels((1, 2, 3), shift=0.2, factor=1.2)
    x = pair.data(24)
    result = measure_ais(pair.model, pair.guide, x, AnnealedHMC(16, 60, 4, start))
    error = result.log_evidence - pair.log_evidence(x)
    stated = result.standard_error.square().sum().sqrt() / 24
    assert stated < 0.1
    assert abs(error.mean()) < 4 * stated


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("start", ["gaussian", "guide", "prior"])
def test_the_likelihood_given_a_condition(start: str) -> None:
    pair = Conditional(factor=1.3)
    c = torch.eye(3)[torch.arange(30) % 3]
    x = pair.model(c=c, size=30)
    result = measure_ais(pair.model, pair.guide, Batch(x, c), AnnealedHMC(16, 40, 4, start))
    error = result.log_evidence - pair.log_evidence(x, c)
    stated = result.standard_error.square().sum().sqrt() / 30
    assert stated < 0.05
    assert abs(error.mean()) < 4 * stated


def test_chains_that_do_not_fit_into_memory_are_refused() -> None:
    model, x, _ = ppca(2)
    with pytest.raises(FlowvaeError, match=rf"chains = {10**13}.*memory"):
        measure_ais(model, MeanField(model), x, AnnealedHMC(10**13, 2))


def test_slopes_are_those_of_the_log_densities(monkeypatch: pytest.MonkeyPatch) -> None:
    """In blocks of chains, by the function and by its program, with no gradient of any parameter."""
    monkeypatch.setattr(replay, "CALLS", 1)
    monkeypatch.setattr(sampler, "VALUES", 3 * 5 * sampler.LEAST_FEATURES)  # three chains at a time
    model, x, _ = ppca(5)
    path = AnnealingPath(model, MeanField(model, shift=0.3), Batch(x), "gaussian")
    for seed in range(3):
        z = path.draw(7) + seed
        found = path.at(z)
        z.requires_grad_()
        start, joint = path.start.log_prob(z), log_joint(model, x, z)
        torch.testing.assert_close(found.log_start, start.detach())
        torch.testing.assert_close(found.tilt, (joint - start).detach())
        torch.testing.assert_close(found.start_slope, torch.autograd.grad(start.sum(), z, retain_graph=True)[0])
        torch.testing.assert_close(found.tilt_slope, torch.autograd.grad((joint - start).sum(), z)[0])
    assert path._evaluated.programs  # type: ignore[attr-defined]
