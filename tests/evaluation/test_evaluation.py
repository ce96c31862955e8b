"""Measures on cases whose answer is known, their files, the ArviZ export and the figures."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from flowvae import MAF, Digits, Experiment, FlowvaeError, Pinwheel
from flowvae.data import Dataset
from flowvae.evaluation import (
    Metric,
    draw_figures,
    importance_draws,
    likelihood_metrics,
    measure_likelihoods,
    pareto_k,
    plot_latent,
    plot_priors,
    read_metrics,
    to_arviz,
    write_metrics,
)
from flowvae.evaluation.likelihood import importance_weights as weights_module
from flowvae.evaluation.likelihood.elbo_and_nll import khat_metrics
from flowvae.experiments.assemble import ModelGuide
from flowvae.models import LinearGaussian
from flowvae.networks import MLP

SMALL = Experiment(latent=3, encoder=MLP((16,)), decoder=MLP((16,)), prior=MAF(2, (8,)))


def small() -> tuple[ModelGuide, Dataset]:
    data = Digits().load(0)
    return SMALL.build(data), data


def test_elbo_agrees_with_pyro() -> None:
    pair, data = small()
    x = data.test[:40]
    result = measure_likelihoods(pair.model, pair.guide, x, draws=4000)
    elbo = pyro.infer.Trace_ELBO(num_particles=4000, vectorize_particles=True, max_plate_nesting=1)
    with torch.no_grad():
        pyros = -elbo.loss(pair.model, pair.guide, x) / len(x)
    assert result.elbo.mean().item() == pytest.approx(pyros, abs=0.15)


def test_the_result_does_not_depend_on_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block of data is drawn for as a whole, so its first data are measured the same among others."""
    pair, data = small()
    one = measure_likelihoods(pair.model, pair.guide, data.test[:64], draws=30)
    more = measure_likelihoods(pair.model, pair.guide, data.test[:150], draws=30)
    assert torch.equal(one.log_evidence, more.log_evidence[:64])
    assert not torch.equal(
        one.log_evidence, measure_likelihoods(pair.model, pair.guide, data.test[:64], 30, seed=1).log_evidence
    )
    assert weights_module.ROWS == 64


def test_more_draws_than_fit_into_memory_at_a_time() -> None:
    pair, data = small()
    (block,) = importance_draws(pair.model, pair.guide, data.test[:3], draws=600, seed=0)
    assert block.log_weight.shape == (600, 3)
    assert len(block.code[:, 0, 0].unique()) == 600


@pytest.mark.parametrize("draws", [0, -1])
def test_too_few_draws_are_refused(draws: int) -> None:
    pair, data = small()
    with pytest.raises(FlowvaeError, match="draws"):
        measure_likelihoods(pair.model, pair.guide, data.test[:3], draws)


def test_standard_errors_cover_the_truth() -> None:
    """Over 200 sets of data, the stated interval of 1.96 standard errors covers the mean 95 % of the time."""
    torch.manual_seed(0)
    model = LinearGaussian(torch.randn(5, 2), torch.zeros(5), scale=0.5)

    def guide(x: Tensor, size: int | None = None) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", model.posterior(x))

    covariance = model.weight @ model.weight.T + 0.25 * torch.eye(5)
    truth = torch.distributions.MultivariateNormal(torch.zeros(5), covariance).entropy().item()
    covered = 0
    for seed in range(200):
        with torch.no_grad():
            torch.manual_seed(seed)
            x = model(None, 60)
        result = measure_likelihoods(model, guide, x, draws=2)
        nll = {m.name: m for m in likelihood_metrics(result, 5, False, "test", {})}["nll"]
        assert nll.se is not None
        covered += abs(nll.value - truth) < 1.96 * nll.se
    assert 180 <= covered <= 198


def test_pareto_k_of_gaussians_with_the_same_mean() -> None:
    """For p = N(0, v) and q = N(0, 1), k = 1 − 1/v."""
    torch.manual_seed(0)
    variances = torch.tensor([1.25, 2.0, 4.0], dtype=torch.float64)
    z = torch.randn(40_000, 1, dtype=torch.float64)
    log_weight = dist.Normal(0.0, variances.sqrt()).log_prob(z) - dist.Normal(0.0, 1.0).log_prob(z)
    torch.testing.assert_close(pareto_k(log_weight), 1 - 1 / variances, rtol=0, atol=0.12)
    assert pareto_k(log_weight[:10]).isnan().all()


@pytest.mark.parametrize("share", [0.9, 0.5, 1.0])
def test_the_error_of_a_share_of_bad_k(share: float) -> None:
    """Over 400 sets of 60 data, the interval covers the share at its rate, and none claims to know it exactly."""
    covered = 0
    for seed in range(400):
        k = torch.where(torch.rand(60, generator=torch.Generator().manual_seed(seed)) < share, 0.9, 0.1)
        (metric,) = khat_metrics("", k, "test", {})
        assert metric.se is not None
        assert metric.se > 0.01
        assert metric.value == pytest.approx((k > 0.7).double().mean().item())
        covered += abs(metric.value - share) < 1.96 * metric.se
    assert covered >= 0.9 * 400
    assert khat_metrics("", torch.tensor([0.9, math.nan]), "test", {}) == []


def test_metrics_have_units_and_survive_their_file(tmp_path: Path) -> None:
    pair, data = small()
    result = measure_likelihoods(pair.model, pair.guide, data.test[:30], draws=30)
    protocol = {"data": data.identity.as_dict(), "draws": 30, "seed": 0}
    metrics = likelihood_metrics(result, data.features, True, "test", protocol)
    write_metrics(tmp_path / "metrics.json", metrics)
    assert read_metrics(tmp_path / "metrics.json") == metrics
    entries = json.loads((tmp_path / "metrics.json").read_text())
    assert isinstance(entries, list)
    for entry in entries:
        assert set(entry) == {"name", "value", "se", "unit", "split", "protocol", "caution", "sha256"}
        assert entry["protocol"]["data"]["sha256"]
    by_name = {metric.name: metric for metric in metrics}
    assert by_name["elbo"].value == pytest.approx(by_name["reconstruction"].value - by_name["kl"].value, rel=1e-5)
    assert by_name["bits_per_dim"].value == pytest.approx(by_name["nll"].value / 64 / math.log(2))
    assert by_name["nll"].value <= -by_name["elbo"].value
    assert "nats per datum (test)" in str(by_name["elbo"])
    assert isinstance(by_name["elbo"], Metric)
    few = measure_likelihoods(pair.model, pair.guide, data.test[:3], draws=10)  # no tail to fit, so none is called good
    assert not [m for m in likelihood_metrics(few, data.features, True, "test", protocol) if "pareto" in m.name]
    (tmp_path / "metrics.json").write_text("[1")
    with pytest.raises(FlowvaeError, match="delete it and evaluate"):
        read_metrics(tmp_path / "metrics.json")


def test_arviz_export_has_every_group() -> None:
    pair, data = small()
    exported = to_arviz(pair.model, pair.guide, data.test[:7], draws=30)
    shapes = {
        ("posterior", "z"): (1, 30, 7, 3),
        ("prior", "z_new"): (1, 30, 3),
        ("posterior_predictive", "x"): (1, 30, 7, 1, 8, 8),
        ("log_likelihood", "x"): (1, 30, 7),
        ("observed_data", "x"): (7, 1, 8, 8),
    }
    for (group, name), shape in shapes.items():
        assert exported[group][name].shape == shape
    np.testing.assert_array_equal(exported["observed_data"]["x"], data.test[:7].numpy())
    z = torch.tensor(exported["posterior"]["z"].values[0])
    expected = pair.model.decode(z).log_prob(data.test[:7]).detach()
    np.testing.assert_allclose(exported["log_likelihood"]["x"].values[0], expected, rtol=1e-4)


def history() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "epoch": [0, 1],
            "train_elbo": [-3.0, -2.0],
            "valid_elbo": [-3.5, -2.5],
            "weight": [1.0, 1.0],
            "kept": [False, True],
        }
    )


@pytest.mark.parametrize("latent", [1, 2, 5])
@pytest.mark.parametrize("name", ["digits", "pinwheel"])
def test_figures_for_every_latent_size(latent: int, name: str, tmp_path: Path) -> None:
    data = Digits().load(0) if name == "digits" else Pinwheel(train=50, valid=20, test=60).load(0)
    pair = Experiment(latent=latent, encoder=MLP((8,)), decoder=MLP((8,))).build(data)
    paths = draw_figures(pair.model, pair.guide, data, history(), tmp_path / "figures")
    of_images = {"neighbours", "interpolation", "traversal"} if name == "digits" else set()
    assert {path.stem for path in paths} == {"samples", "reconstructions", "latent", "history"} | of_images
    for path in paths:
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size > 5000


def test_a_label_in_every_figure() -> None:
    pair, data = small()
    figure = plot_latent(pair.model, pair.guide, data)
    for ax in figure.axes:
        assert ax.get_title()
        assert "principal component" in ax.get_xlabel()


def test_contours_are_those_of_the_prior() -> None:
    """With a 2-D latent the contours are the prior's density: the level sets of N(0, I) are circles."""
    data = Digits().load(0)
    pair = replace(SMALL, latent=2, prior=Experiment().prior).build(data)
    figure = plot_latent(pair.model, pair.guide, data)
    contours = next(c for c in figure.axes[0].collections if hasattr(c, "levels"))
    segment = max((s for level in contours.allsegs for s in level), key=len)
    radii = np.linalg.norm(segment, axis=1)
    assert radii.std() / radii.mean() < 0.02


def test_priors_side_by_side_need_two_dimensions() -> None:
    data = Pinwheel(train=50, valid=20, test=60).load(0)
    experiment = replace(SMALL, latent=2, data=Pinwheel(train=50, valid=20, test=60))
    pairs = {"maf": experiment.build(data), "normal": replace(experiment, prior=Experiment().prior).build(data)}
    figure = plot_priors(pairs, data)
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == [
        f"{name}: density of the prior" if row else "codes of test data" for name in pairs for row in (1, 0)
    ]
    with pytest.raises(FlowvaeError, match="latent = 3"):
        plot_priors({"maf": replace(experiment, latent=3).build(data)}, data)


@pytest.mark.parametrize(
    ("value", "se", "text"),
    [
        (-99.364, 0.337, "-99.36 ± 0.34"),
        (0.00812, 0.00047, "0.0081 ± 0.0005"),
        (0.5304, 0.0102, "0.530 ± 0.010"),
        (13.0, None, "13.00"),
        (0.0, None, "0.00"),
        (0.0123, None, "0.012"),
    ],
)
def test_a_metric_is_printed_with_the_digits_that_its_error_leaves(value: float, se: float | None, text: str) -> None:
    assert str(Metric("name", value, se, "nats", "test", {})) == f"name: {text} nats (test)"
