"""The reference sampler on a conjugate model, and distances whose value is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor

from flowvae import FlowvaeError
from flowvae.evaluation import compare_to_reference, importance_sample, run_nuts
from flowvae.evaluation.arviz.versions import arviz

az = arviz()

Y = torch.tensor([1.2, -0.3, 2.1, 0.4])
PRECISION = 4 + 0.25


def model(y: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    twice = pyro.deterministic("twice", 2 * mu)
    with pyro.plate("group", len(y)):
        pyro.sample("y", dist.Normal(twice / 2, 1.0), obs=y)


def wide(y: Tensor) -> None:
    """Half a posterior standard deviation too high, and 1.4 times too wide."""
    sd = PRECISION**-0.5
    pyro.sample("mu", dist.Normal(y.sum() / PRECISION + 0.5 * sd, 1.4 * sd))


@pytest.fixture(scope="module")
def nuts() -> Any:
    return run_nuts(model, Y, draws=250, warmup=60, chains=2, seed=1)


def test_posterior_of_a_conjugate_model(nuts: Any) -> None:
    mu = nuts["posterior"]["mu"].values
    assert mu.shape == (2, 250)
    assert not np.array_equal(mu[0], mu[1])
    effective = float(az.ess(mu, method="mean"))
    assert effective > 60
    sd = PRECISION**-0.5
    assert mu.mean() == pytest.approx(Y.sum().item() / PRECISION, abs=4 * sd / effective**0.5)
    assert mu.std() == pytest.approx(sd, rel=4 / (2 * float(az.ess(mu, method="sd"))) ** 0.5)


def test_groups(nuts: Any) -> None:
    mu = torch.tensor(nuts["posterior"]["mu"].values)
    np.testing.assert_allclose(nuts["posterior"]["twice"], 2 * mu, rtol=1e-6)
    pointwise = dist.Normal(mu.unsqueeze(-1), 1.0).log_prob(Y)
    assert nuts["log_likelihood"]["y"].dims == ("chain", "draw", "group")
    np.testing.assert_allclose(nuts["log_likelihood"]["y"], pointwise, rtol=1e-4, atol=1e-5)
    lp = dist.Normal(0.0, 2.0).log_prob(mu) + pointwise.sum(-1)
    np.testing.assert_allclose(nuts["sample_stats"]["lp"], lp, rtol=1e-5)
    assert nuts["sample_stats"]["diverging"].dtype == bool
    np.testing.assert_array_equal(nuts["observed_data"]["y"], Y)
    assert float(az.summary(nuts, var_names=["mu"], round_to="none").loc["mu", "r_hat"]) < 1.1


def test_the_seed_decides() -> None:
    few = {"draws": 5, "warmup": 5, "chains": 1}
    one, same, other = (run_nuts(model, Y, seed=seed, **few)["posterior"]["mu"].values for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    with pytest.raises(FlowvaeError, match="chains = 0"):
        run_nuts(model, Y, chains=0)


def test_a_guide_against_nuts(nuts: Any) -> None:
    """Known errors of the guide, and none that is beyond Monte Carlo error once it is weighed."""
    weighed = importance_sample(model, wide, Y)
    table = compare_to_reference(weighed, nuts)
    assert list(table.index) == ["mu", "twice"]
    row = table.loc["mu"]
    assert abs(row["mean_error"] - 0.5) < 3 * row["mean_error_se"]
    assert abs(row["sd_ratio"] - 1.4) < 3 * row["sd_ratio_se"]
    assert row["wasserstein"] > 3 * row["wasserstein_noise"]
    np.testing.assert_allclose(table.loc["twice"].iloc[:5], row.iloc[:5], rtol=1e-4)
    mended = compare_to_reference(weighed, nuts, weighted=True).loc["mu"]
    assert abs(mended["mean_error"]) < 3 * mended["mean_error_se"]
    assert abs(mended["sd_ratio"] - 1) < 3 * mended["sd_ratio_se"]
    assert mended["wasserstein"] < 2.5 * mended["wasserstein_noise"]


def test_distances_of_gaussians() -> None:
    """W₁ of a shift is the shift; of a scale c it is |c − 1| √(2/π)."""
    rng = np.random.default_rng(0)
    reference = {"a": 3 + 2 * rng.standard_normal((4, 5000, 2)), "only here": rng.standard_normal((4, 10))}
    ours = {"a": np.stack((4 + 2 * rng.standard_normal((4, 5000)), 3 + 3 * rng.standard_normal((4, 5000))), -1)}
    table = compare_to_reference(ours, reference)
    assert list(table.index) == ["a[0]", "a[1]"]
    np.testing.assert_allclose(table["mean_error"], [0.5, 0], atol=0.04)
    np.testing.assert_allclose(table["sd_ratio"], [1, 1.5], atol=0.03)
    np.testing.assert_allclose(table["wasserstein"], [0.5, 0.5 * np.sqrt(2 / np.pi)], atol=0.04)


def test_standard_errors_cover_no_difference() -> None:
    """Of 100 comparisons of a law with itself, 95 % lie within 1.96 standard errors."""
    rng = np.random.default_rng(0)
    both = [{"a": rng.standard_normal((2, 200, 100))} for _ in range(2)]
    table = compare_to_reference(*both)
    for error, se in (("mean_error", "mean_error_se"), ("sd_ratio", "sd_ratio_se")):
        off = table[error] - (error == "sd_ratio")
        assert 0.88 <= (off.abs() < 1.96 * table[se]).mean() <= 0.99
    assert table["wasserstein"].mean() == pytest.approx(table["wasserstein_noise"].mean(), rel=0.1)


def test_what_cannot_be_compared_is_refused() -> None:
    draws = {"a": np.zeros((1, 10))}
    with pytest.raises(FlowvaeError, match="nothing to compare"):
        compare_to_reference(draws, {"b": np.zeros((1, 10))})
    with pytest.raises(FlowvaeError, match="weighted = True"):
        compare_to_reference(draws, draws, weighted=True)


def sampled(y: Tensor, kept: Tensor, **settings: Any) -> Any:
    def masked() -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
        with pyro.plate("group", len(y)), poutine.mask(mask=kept):
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    return run_nuts(masked, **settings)


def test_masked_data_have_no_log_likelihood() -> None:
    kept = torch.tensor([True, False, True, True])
    few = {"draws": 20, "warmup": 20, "chains": 1}
    nuts = sampled(Y, kept, **few)
    mu = torch.tensor(nuts["posterior"]["mu"].values)
    expected = dist.Normal(mu.unsqueeze(-1), 1.0).log_prob(Y[kept])
    assert nuts["log_likelihood"]["y"].dims == ("chain", "draw", "y_counted")
    np.testing.assert_allclose(nuts["log_likelihood"]["y"], expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(FlowvaeError, match=r"'y': 1 of its 4 .*NaN.*gradients"):
        sampled(Y.where(kept, torch.nan), kept, **few)


def of_kinds() -> None:
    pyro.sample("k", dist.Bernoulli(0.5))


def partly_observed() -> None:
    with pyro.plate("group", 4):
        pyro.sample("y", dist.Normal(0.0, 1.0), obs=Y, obs_mask=Y > 0)


@pytest.mark.parametrize("counts", [{"draws": 3}, {"warmup": 0}, {"chains": 0}])
def test_too_few_draws_are_refused(counts: dict[str, int]) -> None:
    with pytest.raises(FlowvaeError, match="{} = {}".format(*next(iter(counts.items())))):
        run_nuts(model, Y, **({"draws": 4, "warmup": 4, "chains": 1} | counts))


@pytest.mark.parametrize(
    ("unfit", "words"),
    [
        (of_kinds, "k: not continuous"),
        (partly_observed, "'y_unobserved': 3 of its 4"),
        (lambda: pyro.sample("y", dist.Normal(0.0, 1.0), obs=Y[0]), "no latent"),
        (lambda: poutine.scale(model, scale=0.5)(Y), "scale.* mu, y"),
    ],
)
def test_models_that_nuts_cannot_sample(unfit: Any, words: str) -> None:
    with pytest.raises(FlowvaeError, match=words):
        run_nuts(unfit, draws=5, warmup=5, chains=1)


@pytest.mark.parametrize("seed", [0, 7, 8])
def test_extreme_prior_draws_do_not_stop_nuts(seed: int) -> None:
    def vague() -> None:
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1000.0))
        pyro.sample("y", dist.Normal(0.0, scale).expand([4]).to_event(1), obs=Y)

    nuts = run_nuts(vague, draws=4, warmup=4, chains=1, seed=seed)
    assert np.isfinite(nuts["posterior"]["scale"]).all()


def test_singular_prior_draws_do_not_stop_nuts() -> None:
    def model() -> None:
        log_scale = pyro.sample("log_scale", dist.Normal(100.0, 0.1))
        if (log_scale > 50).any():
            raise RuntimeError("singular")
        pyro.sample("y", dist.Normal(0.0, log_scale.exp()), obs=Y[0])

    assert np.isfinite(run_nuts(model, draws=4, warmup=4, chains=1)["posterior"]["log_scale"]).all()


def test_numbers_that_never_vary() -> None:
    """Such as the diagonal of a correlation matrix."""
    rng = np.random.default_rng(0)
    ours, theirs = (np.stack((rng.standard_normal((2, 50)), np.ones((2, 50))), -1) for _ in range(2))
    table = compare_to_reference({"a": ours}, {"a": theirs})
    assert list(table.index) == ["a[0]"]
    assert np.isfinite(table).all(axis=None)
    with pytest.raises(FlowvaeError, match=r"a\[1\].*\(1\)"):
        compare_to_reference({"a": ours + 1}, {"a": theirs})
    with pytest.raises(FlowvaeError, match=r"a\[0\]"):
        compare_to_reference({"a": np.full_like(ours, np.nan)}, {"a": theirs})
    with pytest.raises(FlowvaeError, match="nothing to compare: a "):
        compare_to_reference({"a": ours[..., 1:]}, {"a": theirs[..., 1:]})
