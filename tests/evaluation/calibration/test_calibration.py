"""Ranks against their exact law on the linear-Gaussian model, and the tests' false alarms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from matplotlib.figure import Figure
from pyro import poutine
from scipy import stats
from torch import Tensor

from flowvae import FlowvaeError
from flowvae.evaluation import Calibration, calibrate, calibrate_fits, ecdf_band, plot_calibration
from flowvae.evaluation.arviz.versions import OLD, arviz
from flowvae.evaluation.calibration.holm import holm
from flowvae.models import LinearGaussian

az = arviz()

DRAWS = 99


def pca() -> LinearGaussian:
    torch.manual_seed(0)
    return LinearGaussian(torch.randn(5, 2), torch.zeros(5), scale=0.7)


def near(model: LinearGaussian, shift: float = 0.0, scale: float = 1.0) -> Callable[..., Any]:
    """The exact posterior, its mean shifted and its standard deviations scaled."""

    def guide(x: Tensor, size: int | None = None) -> Tensor:
        exact = model.posterior(x)
        step = shift * torch.tensor([1.0, 0.0])
        with pyro.plate("data", len(x)):
            return pyro.sample("z", dist.MultivariateNormal(exact.loc + step, scale_tril=scale * exact.scale_tril))

    return guide


def law(scale: float, draws: int = DRAWS) -> np.ndarray:
    """P(rank = r): given u = Φ(n / c) for n ~ N(0, 1), the rank is binomial (L, u)."""
    n = np.linspace(-8, 8, 4001)
    weight = stats.norm.pdf(n) / stats.norm.pdf(n).sum()
    return stats.binom.pmf(np.arange(draws + 1)[:, None], draws, stats.norm.cdf(n / scale)) @ weight


@pytest.mark.parametrize("scale", [0.6, 1.0, 1.5])
def test_ranks_follow_their_law(scale: float) -> None:
    model = pca()
    result = calibrate(model, near(model, scale=scale), simulations=2000, draws=DRAWS, seed=1)
    assert result.ranks.shape == (2000, 2)
    assert result.names == ("z[0]", "z[1]")
    counts, _ = result.histogram(20)
    expected = 2000 * law(scale).reshape(20, 5).sum(1)
    for column in counts:
        assert stats.chisquare(column, expected, sum_check=False).pvalue > 0.01
    table = result.table()
    lower, upper = ecdf_band(2000, DRAWS)
    _, difference = result.ecdf_difference()
    inside = ((lower <= difference) & (difference <= upper)).all(1)
    if scale == 1.0:
        assert (table["uniform_p_holm"] > 0.01).all()
        assert inside.all()
    else:
        assert (table["uniform_p_holm"] < 1e-6).all()
        assert not inside.any()
    assert (table["symmetric_p_holm"] > 0.01).all()  # too wide or too narrow, but in the right place


def test_a_shifted_mean_is_one_sided() -> None:
    """u = Φ(n − δ/s) for a guide that is δ too high, whose mean is Φ(−δ / (s √2))."""
    model = pca()
    result = calibrate(model, near(model, shift=0.15), simulations=2000, draws=DRAWS, seed=2)
    sd = model.posterior(torch.zeros(5)).variance.sqrt()[0].item()
    expected = stats.norm.cdf(-0.15 / sd / np.sqrt(2)) - 0.5
    assert result.bias()[0] == pytest.approx(expected, abs=4 * 0.29 / np.sqrt(2000))
    table = result.table()
    assert table.loc["z[0]", "symmetric_p_holm"] < 1e-6
    assert table.loc["z[1]", "symmetric_p_holm"] > 0.01


def test_false_alarms_are_as_many_as_stated() -> None:
    """Of 100 calibrations of the exact guide, 5 % of the p-values are below 0.05."""
    model = pca()
    guide = near(model)
    alarms = np.zeros(3)
    lower, upper = ecdf_band(128, 19)
    for seed in range(100):
        result = calibrate(model, guide, simulations=128, draws=19, seed=seed)
        _, difference = result.ecdf_difference()
        out = ((difference < lower) | (difference > upper)).any(1)
        alarms += [(result.uniform(10) < 0.05).sum(), (result.symmetric() < 0.05).sum(), out.sum()]
    low, high = stats.binom.interval(0.999, 200, 0.05)
    assert (alarms >= low).all()
    assert (alarms <= high).all()


def test_first_simulations_are_the_same_among_more() -> None:
    model = pca()
    few = calibrate(model, near(model), simulations=70, draws=9)
    more = calibrate(model, near(model), simulations=150, draws=9)
    np.testing.assert_array_equal(few.ranks, more.ranks[:70])


def normal_mean(y: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    with pyro.plate("data", len(y)):
        theta = pyro.deterministic("theta", mu.expand(len(y)))
        pyro.sample("y", dist.Normal(theta, 1.0), obs=y)


@pytest.mark.parametrize(("scale", "calibrated"), [(1.0, True), (0.5, False)])
def test_a_fit_for_every_data_set(scale: float, calibrated: bool) -> None:
    """The exact fit of a conjugate model, whose variational parameters are in Pyro's store."""
    pyro.param("ours", torch.tensor(1.0))

    def fit(model: Callable[..., Any]) -> Callable[..., Any]:
        assert not list(pyro.get_param_store().keys())
        y = pyro.poutine.trace(model).get_trace(torch.zeros(4)).nodes["y"]["value"]
        assert y.shape == (4,)
        precision = 4 + 0.25
        pyro.param("loc", y.sum() / precision)

        def guide(y: Tensor) -> None:
            pyro.sample("mu", dist.Normal(pyro.param("loc"), scale * precision**-0.5))

        return guide

    result = calibrate_fits(normal_mean, fit, torch.zeros(4), simulations=200, draws=19, seed=3)
    assert result.names == ("mu",)
    assert (result.uniform(10)[0] > 0.01) == calibrated
    assert list(pyro.get_param_store().keys()) == ["ours"]
    pyro.clear_param_store()


def flat(y: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0).mask(False))
    pyro.sample("y", dist.Normal(mu, 1.0), obs=y[0])


def weighted(y: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    pyro.factor("penalty", -(mu**2))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (flat, "mu: masked"),
        (weighted, "factor penalty"),
        (poutine.scale(normal_mean, scale=0.5), "scale.* mu, y"),
        (lambda y: pyro.sample("y", dist.Normal(0.0, 1.0), obs=y[0]), "no latent"),
        (normal_mean, "guide has no site for mu"),
    ],
)
def test_models_that_do_not_simulate_their_own_density(model: Callable[..., Any], words: str) -> None:
    with pytest.raises(FlowvaeError, match=words):
        calibrate_fits(model, lambda _: lambda y: None, torch.zeros(4), simulations=2, draws=9)


@pytest.mark.parametrize("seed", range(3))
def test_scales_that_underflow_are_simulated(seed: int) -> None:
    """A scale of 0.0 leaves its variable at its mean; one that overflows is refused."""

    def small(y: Tensor) -> None:
        scale = pyro.sample("scale", dist.LogNormal(-1000.0, 1.0))
        loc = pyro.sample("loc", dist.Normal(0.0, scale))
        pyro.sample("y", dist.Normal(loc, 1.0), obs=y)

    def guide(y: Tensor) -> None:
        pyro.sample("scale", dist.LogNormal(-1000.0, 1.0))
        pyro.sample("loc", dist.Normal(0.0, 1.0))

    result = calibrate_fits(small, lambda _: guide, torch.zeros(()), simulations=20, draws=9, seed=seed)
    assert result.names == ("scale", "loc")
    assert 1.5 < result.ranks[:, 1].mean() < 7.5  # the prior's mean among draws around it

    def large(y: Tensor) -> None:
        pyro.sample("y", dist.Normal(pyro.sample("scale", dist.LogNormal(1000.0, 1.0)), 1.0), obs=y)

    with pytest.raises(FlowvaeError, match=r"'scale'.*not finite"):
        calibrate_fits(large, lambda _: guide, torch.zeros(()), simulations=2, draws=9, seed=seed)


def test_ties_break_at_random() -> None:
    """A parameter of two values: most ranks are ties, and uniform all the same."""

    def model(x: Tensor | None = None, size: int | None = None) -> None:
        with pyro.plate("data", len(x) if x is not None else size):
            z = pyro.sample("z", dist.Bernoulli(torch.tensor([0.3])).to_event(1))
            pyro.sample("x", dist.Normal(0 * z, 1.0).to_event(1), obs=x)

    def guide(x: Tensor, size: int | None = None) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(torch.tensor([0.3])).to_event(1))

    assert calibrate(model, guide, simulations=1000, draws=DRAWS).uniform()[0] > 0.01


def test_holm() -> None:
    """Against the definition: reject in order while p_(j) ≤ α / (n − j)."""
    rng = np.random.default_rng(0)
    p = rng.uniform(0, 0.1, 6)
    corrected = holm(p)
    for alpha in np.linspace(0.01, 0.5, 50):
        rejected = set()
        for j, index in enumerate(np.argsort(p)):
            if p[index] > alpha / (6 - j):
                break
            rejected.add(index)
        assert set(np.flatnonzero(corrected <= alpha)) == rejected


def test_impossible_counts_are_refused() -> None:
    model = pca()
    with pytest.raises(FlowvaeError, match="simulations = 0"):
        calibrate(model, near(model), simulations=0)
    result = Calibration(np.zeros((5, 1), dtype=int), 9, ("z[0]",))
    with pytest.raises(FlowvaeError, match="bins = 20"):
        result.table()


def test_the_figure_shows_counts_and_bands() -> None:
    rng = np.random.default_rng(0)
    names = tuple(f"z[{j}]" for j in range(8))
    result = Calibration(rng.integers(0, 100, (400, 8)), DRAWS, names)
    figure = plot_calibration(result)
    assert isinstance(figure, Figure)
    assert len(figure.axes) == 12
    assert "6 of 8" in figure.get_suptitle()
    bars = figure.axes[0].patches[-1].get_data().values
    np.testing.assert_array_equal(bars, result.histogram()[0][0])
    curve = figure.axes[6].lines[0].get_ydata()
    assert (curve[0], curve[-1]) == (0, 0)


def test_arviz_gets_ranks_in_the_unit_interval() -> None:
    rng = np.random.default_rng(0)
    result = Calibration(rng.integers(0, 100, (400, 2)), DRAWS, ("z[0]", "z[1]"))
    data = result.to_arviz()
    values = data["prior_sbc"]["z[0]"]
    assert values.dims == ("chain", "draw")
    assert ((values > 0) & (values < 1)).all()
    np.testing.assert_allclose(values.values[0] * 100 - 0.5, result.ranks[:, 0])
    if not OLD:
        import matplotlib as mpl
        import matplotlib.pyplot as plt

        mpl.use("Agg")
        az.plot_ecdf_pit(data)
        plt.close("all")
