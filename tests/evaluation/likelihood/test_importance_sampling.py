"""Weights of any model/guide pair, against closed forms and integrals."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import matplotlib as mpl
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoDelta, AutoMultivariateNormal, AutoNormal
from scipy.integrate import quad
from scipy.stats import halfnorm, norm
from torch import Tensor

from flowvae import FlowvaeError
from flowvae.evaluation import (
    NarrowGuideWarning,
    NoisyParetoKWarning,
    importance_sample,
    importance_sample_each,
    importance_sample_to_arviz,
    plot_khat,
    predict,
    psis,
    to_arviz,
)
from flowvae.evaluation.arviz.versions import arviz
from flowvae.models import LinearGaussian

az = arviz()

mpl.use("Agg")
pytestmark = pytest.mark.usefixtures("own_store")
Y = torch.tensor([1.2, -0.3, 2.1, 0.4, 0.9])


@pytest.fixture
def own_store() -> Iterator[None]:
    """Automatic guides keep their parameters in Pyro's store."""
    yield
    pyro.clear_param_store()


def school(y: Tensor) -> None:
    """Local effects in a plate around a global mean and scale."""
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    tau = pyro.sample("tau", dist.HalfNormal(1.0))
    with pyro.plate("group", len(y)):
        eta = pyro.sample("eta", dist.Normal(0.0, 1.0))
        theta = pyro.deterministic("theta", mu + tau * eta)
        pyro.sample("y", dist.Normal(theta, 0.8), obs=y)


def pca() -> LinearGaussian:
    torch.manual_seed(0)
    return LinearGaussian(torch.randn(6, 2), torch.zeros(6), scale=0.7)


def near(model: LinearGaussian, shift: float = 0.0, scale: float = 1.0) -> Callable[..., Any]:
    """The exact posterior, its mean shifted and its standard deviations scaled."""

    def guide(x: Tensor, size: int | None = None) -> Tensor:
        exact = model.posterior(x)
        with pyro.plate("data", len(x)):
            return pyro.sample("z", dist.MultivariateNormal(exact.loc + shift, scale_tril=scale * exact.scale_tril))

    return guide


def test_pareto_k_of_gaussians() -> None:
    """k = 1 − min eig(Σ_p⁻¹ Σ_q) for Gaussians with the same mean and a guide too narrow somewhere."""
    target = torch.tensor([[2.0, 0.6], [0.6, 1.0]])
    proposal = torch.diag(torch.tensor([1.0, 0.9]))

    def model() -> None:
        pyro.sample("z", dist.MultivariateNormal(torch.zeros(2), target))

    def guide() -> None:
        pyro.sample("z", dist.MultivariateNormal(torch.zeros(2), proposal))

    eigenvalues = torch.linalg.eigvals(torch.linalg.solve(target, proposal)).real
    estimates = [importance_sample(model, guide, draws=20_000, seed=seed).pareto_k for seed in range(3)]
    assert torch.stack(estimates).mean().item() == pytest.approx(1 - eigenvalues.min().item(), abs=0.08)


@pytest.mark.filterwarnings("ignore::flowvae.evaluation.NoisyParetoKWarning")
def test_evidence_and_its_standard_error() -> None:
    """Over 100 seeds the interval of 1.96 standard errors covers the exact log p(x) 95 % of the time."""
    model = pca()
    with torch.no_grad():
        x = model(None, 3)
        truth = model.log_evidence(x).sum()
    covered = 0
    for seed in range(100):
        result = importance_sample(model, near(model, 0.05, 1.15), x, draws=250, seed=seed)
        covered += abs(result.log_evidence - truth) < 1.96 * result.log_evidence_se
    assert 88 <= covered <= 99


def test_an_exact_guide() -> None:
    model = pca()
    with torch.no_grad():
        x = model(None, 3)
    result = importance_sample(model, near(model), x)
    assert result.effective_draws.item() == pytest.approx(4000, rel=1e-6)
    assert result.log_evidence.item() == pytest.approx(model.log_evidence(x).sum().item(), abs=1e-4)
    assert result.pareto_k <= result.good_k
    smoothed, k = psis(torch.full((4000,), -3.0))
    assert k.isneginf()
    torch.testing.assert_close(smoothed.exp(), torch.full((4000,), 1 / 4000, dtype=torch.float64))


def test_resampled_draws_have_the_moments_of_the_posterior() -> None:
    """Though the guide is off in mean and scale."""
    model = pca()
    with torch.no_grad():
        x = model(None, 1)
        exact = model.posterior(x)
    result = importance_sample(model, near(model, 0.3, 1.3), x, draws=20_000)
    z = result.resample(10_000, seed=1)["z"][:, 0]
    assert z.shape == (10_000, 2)
    error = 4 * exact.variance.sqrt()[0] / result.effective_draws.sqrt()
    assert ((z.mean(0) - exact.loc[0]).abs() < error).all()
    torch.testing.assert_close(z.T.cov(), exact.covariance_matrix[0].detach(), rtol=0.1, atol=0.01)
    # in random order: a part stands for the whole
    assert ((z[:2500].mean(0) - exact.loc[0]).abs() < 3 * error).all()
    assert ((result.draws["z"][:, 0].mean(0) - exact.loc[0]).abs() > 2 * error).all()


def test_each_datum_on_its_own() -> None:
    model = pca()
    with torch.no_grad():
        x = model(None, 70)
        exact = model.posterior(x)
    result = importance_sample_each(model, near(model, 0.2, 1.2), x, draws=4000)
    assert result.pareto_k.shape == result.effective_draws.shape == (70,)
    off = (result.log_evidence - model.log_evidence(x)) / result.log_evidence_se
    assert off.abs().max() < 5
    assert off.std().item() == pytest.approx(1, abs=0.3)
    z = result.resample()["z"]
    assert z.shape == (4000, 70, 2)
    scaled = (z.mean(0) - exact.loc) / exact.variance.sqrt() * result.effective_draws.sqrt().unsqueeze(1)
    assert scaled.abs().max() < 5
    assert "70 data" in str(result)


def test_scaled_pairs_are_refused_for_each_datum_too() -> None:
    """The scale of a whole data set's plate, of which x is a part, among others."""
    model = pca()
    x = torch.zeros(3, 6)
    for pair in ((poutine.scale(model, scale=0.5), near(model)), (model, poutine.scale(near(model), scale=0.5))):
        with pytest.raises(FlowvaeError, match=r"scale.* z"):
            importance_sample_each(*pair, x, draws=5)


def test_the_result_does_not_depend_on_chunks() -> None:
    torch.manual_seed(0)
    guide = AutoNormal(school)
    guide(Y)
    one = importance_sample(school, guide, Y, draws=4000, chunk=4000)
    other = importance_sample(school, guide, Y, draws=4000, chunk=37)
    torch.testing.assert_close(one.log_weight, other.log_weight, rtol=1e-6, atol=1e-5)
    more = importance_sample(school, guide, Y, draws=4100)
    assert torch.equal(more.draws["mu"][:4000], one.draws["mu"])
    assert not torch.equal(importance_sample(school, guide, Y, seed=1).draws["mu"], one.draws["mu"])


@pytest.mark.parametrize("family", [AutoNormal, AutoMultivariateNormal])
def test_automatic_guides(family: Callable[..., Any]) -> None:
    """log q by hand: a Gaussian in unconstrained space, where tau is its own exponential."""
    torch.manual_seed(0)
    guide = family(school, init_scale=0.3)
    result = importance_sample(school, guide, Y)
    assert {name: value.shape for name, value in result.draws.items()} == {
        "mu": (4000,),
        "tau": (4000,),
        "eta": (4000, 5),
        "theta": (4000, 5),
    }
    draws = result.draws
    u = torch.cat((draws["mu"][:, None], draws["tau"].log()[:, None], draws["eta"]), dim=1)
    median = guide.median(Y)
    loc = torch.cat((median["mu"][None], median["tau"].log()[None], median["eta"])).detach()
    log_guide = dist.Normal(loc, 0.3).log_prob(u).sum(1) - draws["tau"].log()
    torch.testing.assert_close(result.log_guide, log_guide, rtol=1e-4, atol=1e-3)
    prior = dist.Normal(0.0, 2.0).log_prob(draws["mu"]) + dist.HalfNormal(1.0).log_prob(draws["tau"])
    prior = prior + dist.Normal(0.0, 1.0).log_prob(draws["eta"]).sum(1)
    theta = draws["mu"][:, None] + draws["tau"][:, None] * draws["eta"]
    likelihood = dist.Normal(theta, 0.8).log_prob(Y)
    torch.testing.assert_close(draws["theta"], theta)
    torch.testing.assert_close(result.log_likelihood["y"], likelihood, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(result.log_joint, prior + likelihood.sum(1), rtol=1e-4, atol=1e-3)


@pytest.mark.filterwarnings("ignore::flowvae.evaluation.NoisyParetoKWarning")
def test_a_model_that_mixes_draws_is_scored_one_by_one() -> None:
    """A sum over every dimension mixes the draws under an outer plate, without an error."""
    y = torch.tensor(0.7)

    def model() -> None:
        mu = pyro.sample("mu", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(mu.sum(), 1.0), obs=y)

    def guide() -> None:
        pyro.sample("mu", dist.Normal(torch.full((3,), 0.2), 0.9).to_event(1))

    result = importance_sample(model, guide, draws=1000)
    mu = result.draws["mu"]
    expected = dist.Normal(0.0, 1.0).log_prob(mu).sum(1) + dist.Normal(mu.sum(1), 1.0).log_prob(y)
    torch.testing.assert_close(result.log_joint, expected)
    truth = dist.Normal(0.0, 2.0).log_prob(y)
    assert abs(result.log_evidence - truth) < 4 * result.log_evidence_se


def test_draws_outside_the_support_have_no_weight() -> None:
    def model() -> None:
        tau = pyro.sample("tau", dist.HalfNormal(1.0))
        pyro.sample("y", dist.Normal(tau, 1.0), obs=torch.tensor(0.5))

    def guide() -> None:
        pyro.sample("tau", dist.Normal(0.5, 1.0))

    result = importance_sample(model, guide, draws=20_000)
    truth = math.log(quad(lambda tau: halfnorm.pdf(tau) * norm.pdf(0.5, tau), 0, 20)[0])
    assert abs(result.log_evidence - truth) < 4 * result.log_evidence_se
    assert (result.resample()["tau"] > 0).all()


KEPT = torch.tensor([True, False, True, True, False])
MISSING = Y.where(KEPT, torch.nan)


def center(prior: dist.Distribution | None = None) -> Tensor:
    return pyro.sample("mu", prior or dist.Normal(0.0, 2.0))


def partly_observed(y: Tensor) -> None:
    """Of what is missing, Pyro's obs_mask makes a latent site "y_unobserved", with a number for every datum."""
    mu = center()
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y, obs_mask=KEPT)


def with_missing(mask: bool | Tensor) -> Callable[[Tensor], None]:
    def guide(y: Tensor) -> None:
        precision = KEPT.sum() + 0.25
        pyro.sample("mu", dist.Normal(y[KEPT].sum() / precision, precision**-0.5))
        with pyro.plate("data", len(y)), poutine.mask(mask=mask):
            pyro.sample("y_unobserved", dist.Normal(1.0, 1.5))

    return guide


def test_missing_data_as_latents() -> None:
    """The evidence is that of the observed part, N(0, I + 4), if both sides leave out the same numbers."""
    exact = dist.MultivariateNormal(torch.zeros(3), torch.eye(3) + 4.0).log_prob(Y[KEPT])
    result = importance_sample(partly_observed, with_missing(~KEPT), MISSING, draws=8000)
    assert abs(result.log_evidence - exact) < 4 * result.log_evidence_se
    assert torch.equal(result.counted["y_observed"], KEPT)
    for guide in (with_missing(True), AutoNormal(partly_observed)):
        with pytest.raises(FlowvaeError, match=r"'y_unobserved': 3 of its 5 numbers.* obs_mask"):
            importance_sample(partly_observed, guide, MISSING)
    with pytest.raises(FlowvaeError, match="the guide masks 2 "):
        importance_sample(partly_observed, with_missing(torch.zeros(5, dtype=torch.bool)), MISSING)


def test_missing_inputs_as_latents() -> None:
    """Imputed numbers that others depend on: y | x ~ N(x, 1) with x missing is N(0, 2)."""
    y = torch.tensor([0.1, 0.4, 1.2, -0.7, 0.3])

    def model(x: Tensor) -> None:
        with pyro.plate("data", 5):
            x = pyro.sample("x", dist.Normal(0.0, 1.0), obs=x, obs_mask=KEPT)
            pyro.sample("y", dist.Normal(x, 1.0), obs=y)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", 5), poutine.mask(mask=~KEPT):
            pyro.sample("x_unobserved", dist.Normal(y / 2, 0.5**0.5))

    exact = dist.Normal(0.0, 1.0).log_prob(Y[KEPT]).sum() + dist.Normal(Y[KEPT], 1.0).log_prob(y[KEPT]).sum()
    exact = exact + dist.Normal(0.0, 2**0.5).log_prob(y[~KEPT]).sum()
    assert importance_sample(model, guide, MISSING).log_evidence.item() == pytest.approx(exact.item(), abs=1e-4)


def test_a_masked_latent_that_the_data_inform_has_a_flat_prior() -> None:
    def model(y: Tensor) -> None:
        mu = center(dist.Normal(0.0, 1.0).mask(False))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    def guide(y: Tensor) -> None:
        pyro.sample("mu", dist.Normal(y.mean(), len(y) ** -0.5))

    exact = dist.Normal(Y.mean(), 1.0).log_prob(Y).sum() + 0.5 * math.log(2 * math.pi / len(Y))
    assert importance_sample(model, guide, Y).log_evidence.item() == pytest.approx(exact.item(), abs=1e-4)


def normal(loc: float = 0.0, shape: tuple[int, ...] = (), event: int = 0) -> Callable[[], None]:
    def guide() -> None:
        center(dist.Normal(torch.full(shape, loc), 1.0).to_event(event))

    return guide


def observing(fn: Callable[[Tensor], Any], y: Tensor, prior: Any = None) -> Callable[[], None]:
    def model() -> None:
        mu = center(prior)
        with pyro.plate("data", len(y)):
            pyro.sample("y", fn(mu), obs=y)

    return model


@pytest.mark.parametrize(
    ("model", "guide", "words"),
    [
        (lambda: center(dist.Normal(torch.zeros(3), 1.0).to_event(1)), normal(), r"'mu'.*\(\).*\(3,\)"),
        (lambda: center(dist.Normal(torch.zeros(3), 1.0).to_event(1)), normal(shape=(3, 1), event=2), r"\(3, 1\)"),
        (lambda: center(dist.Dirichlet(torch.ones(3))), normal(shape=(3,), event=1), "'mu'.* 3 .* 2 "),
        (lambda: center(dist.Bernoulli(0.5)), normal(), "'mu'.* 1 .*no continuous"),
        (observing(lambda mu: dist.Exponential(mu.exp()), Y), normal(), "'y': 1 of 5"),
        (observing(lambda mu: dist.Normal(mu, 1.0), MISSING), normal(), "'y': 2 of its 5 .*NaN"),
        (poutine.mask(observing(lambda mu: dist.Normal(mu, 1.0), Y), mask=Y > 0), normal(), r"'mu'.*\(5,\)"),
        (lambda: pyro.sample("y", dist.Normal(center(), 1.0), obs=Y), normal(), r"'y'.*\(5,\)"),
        (observing(lambda mu: dist.Normal(mu, 1.0).mask(mu > Y), Y), normal(), "'y'.*mask"),
        (observing(lambda mu: dist.Normal(mu, 1.0), Y[:0]), normal(), "size 0"),
        (poutine.scale(observing(lambda mu: dist.Normal(mu, 1.0), Y), scale=0.2), normal(), "scale.* mu, y"),
        (observing(lambda mu: dist.Normal(mu, 1.0), Y), poutine.scale(normal(), scale=0.2), "scale.* mu"),
        (lambda: pyro.sample("y", dist.Normal(0.0, 1.0), obs=Y[0]), normal(), "no latent"),
    ],
)
def test_models_and_guides_that_do_not_fit(model: Callable[..., Any], guide: Callable[..., Any], words: str) -> None:
    with pytest.raises(FlowvaeError, match=words):
        importance_sample(model, guide)


@pytest.mark.filterwarnings("ignore::flowvae.evaluation.NoisyParetoKWarning")
def test_rounding_does_not_take_draws_off_a_simplex() -> None:
    """Though torch's own check says so of some of them."""
    softmax = dist.TransformedDistribution(
        dist.Normal(torch.zeros(2999), 1.0).to_event(1), [dist.transforms.StickBreakingTransform()]
    )
    result = importance_sample(lambda: center(dist.Dirichlet(torch.ones(3000))), lambda: center(softmax), draws=200)
    assert not dist.constraints.simplex.check(result.draws["mu"]).all()
    assert result.log_joint.isfinite().all()


@pytest.mark.filterwarnings("ignore::flowvae.evaluation.NoisyParetoKWarning")
@pytest.mark.parametrize("prior", [dist.Dirichlet(torch.ones(3)), dist.LKJCholesky(6), dist.HalfNormal(1.0)])
def test_constrained_draws_by_the_prior(prior: dist.Distribution) -> None:
    result = importance_sample(lambda: center(prior), lambda: center(prior), draws=200)
    torch.testing.assert_close(result.log_weight, torch.zeros(200))


@pytest.mark.filterwarnings("ignore::flowvae.evaluation.NoisyParetoKWarning")
def test_empty_sites_and_events_of_no_numbers() -> None:
    def model() -> None:
        mu = center()
        pyro.sample("empty", dist.Normal(torch.zeros(0), 1.0).to_event(1))
        pyro.sample("nothing", dist.Normal(mu.unsqueeze(-1).expand(*mu.shape, 0), 1.0).to_event(1), obs=torch.zeros(0))
        pyro.sample("y", dist.Normal(mu, 1.0), obs=Y[0])

    def guide() -> None:
        center(dist.Normal(0.8 * Y[0], 0.8**0.5))
        pyro.sample("empty", dist.Normal(torch.zeros(0), 1.0).to_event(1))

    result = importance_sample(model, guide, draws=300)
    assert result.log_evidence.item() == pytest.approx(dist.Normal(0.0, 5**0.5).log_prob(Y[0]).item(), abs=1e-5)
    assert result.resample(7)["empty"].shape == (7, 0)
    assert predict(model, result.draws)["nothing"].shape == (300, 0)
    importance_sample_to_arviz(result)


def test_float64_models_keep_their_precision() -> None:
    y = 1e8 + Y.double()

    def model() -> None:
        mu = center(dist.Normal(torch.tensor(1e8, dtype=torch.float64), 2.0))
        with pyro.plate("data", 5):
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    def guide() -> None:
        center(dist.Normal(1e8 + (y - 1e8).sum() / 5.25, 5.25**-0.5))

    exact = dist.MultivariateNormal(torch.zeros(5), torch.eye(5) + 4.0).log_prob(Y)
    result = importance_sample(model, guide)
    assert result.log_joint.dtype == torch.float64
    assert result.log_evidence.item() == pytest.approx(exact.item(), abs=1e-4)


@pytest.mark.filterwarnings("ignore::flowvae.evaluation.NoisyParetoKWarning")
def test_dropout_is_off_while_weighing() -> None:
    noisy = torch.nn.Dropout(0.5)

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = noisy

        def forward(self) -> None:
            pyro.sample("y", dist.Normal(self.layer(center()), 1.0), obs=Y[0])

    result = importance_sample(Model(), normal(0.5), draws=100)
    torch.testing.assert_close(result.log_likelihood["y"], dist.Normal(result.draws["mu"], 1.0).log_prob(Y[0]))
    assert noisy.training


@pytest.mark.parametrize("draws", [{}, {"mu": torch.zeros(3, 2)}, {"mu": torch.zeros(0)}, {"mu": torch.tensor(1.0)}])
def test_draws_that_are_not_the_models_predict_nothing(draws: dict[str, Tensor]) -> None:
    with pytest.raises(FlowvaeError, match="mu"):
        predict(observing(lambda mu: dist.Normal(mu, 1.0), Y), draws)


@pytest.mark.parametrize("seed", range(4))
def test_extreme_prior_draws_do_not_stop_predictions(seed: int) -> None:
    def model() -> None:
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1000.0))
        pyro.sample("y", dist.Normal(3.0, scale), obs=Y[0])

    y = predict(model, {"scale": torch.full((2000,), 0.1)}, seed=seed)["y"]
    assert y.mean().item() == pytest.approx(3.0, abs=0.01)
    assert y.std().item() == pytest.approx(0.1, abs=0.01)


def test_masked_data_are_predicted() -> None:
    model = observing(lambda mu: dist.Normal(mu, 0.1).mask(KEPT), MISSING)
    y = predict(model, {"mu": torch.full((2000,), 3.0)})["y"]
    torch.testing.assert_close(y.mean(0), torch.full((5,), 3.0), rtol=0, atol=0.02)


def test_what_cannot_be_weighed_is_refused() -> None:
    def empty(y: Tensor) -> None:
        pass

    def part(y: Tensor) -> None:
        pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", 5, subsample_size=2) as index:
            pyro.sample("y", dist.Normal(0.0, 1.0), obs=y[index])

    def other(y: Tensor) -> None:
        pyro.sample("z", dist.Normal(0.0, 1.0))

    with pytest.raises(FlowvaeError, match="no site for eta, mu, tau"):
        importance_sample(school, empty, Y)
    with pytest.raises(FlowvaeError, match="point"):
        importance_sample(school, AutoDelta(school), Y)
    with pytest.raises(FlowvaeError, match="2 of 5"):
        importance_sample(part, other, Y)
    with pytest.raises(FlowvaeError, match="draws = 24"):
        importance_sample(school, AutoNormal(school), Y, draws=24)
    with pytest.warns(NoisyParetoKWarning, match="draws = 100"):
        few = importance_sample(school, AutoNormal(school), Y, draws=100)
    assert not few.steady
    assert "noisy" in str(few)
    with pytest.raises(FlowvaeError, match="size = 0"):
        few.resample(0)


@pytest.mark.parametrize("resampled", [False, True])
def test_arviz_reads_weighed_draws(resampled: bool) -> None:
    torch.manual_seed(0)
    guide = AutoNormal(school, init_scale=0.5)
    result = importance_sample(school, guide, Y)
    predicted = predict(school, result.draws, Y)
    data = importance_sample_to_arviz(result, resampled, posterior_predictive=predicted)
    posterior = data["posterior"]
    assert posterior["eta"].dims == ("chain", "draw", "group")
    assert posterior["tau"].shape == (1, 4000)
    assert posterior.attrs["pareto_k"] == pytest.approx(result.pareto_k.item())
    for group in ("log_likelihood", "posterior_predictive"):
        assert data[group]["y"].dims == ("chain", "draw", "group")
    np.testing.assert_array_equal(data["observed_data"]["y"], Y)
    # log-likelihood and predictions belong to their draws
    theta = torch.tensor(posterior["theta"].values[0])
    expected = dist.Normal(theta, 0.8).log_prob(Y)
    np.testing.assert_allclose(data["log_likelihood"]["y"].values[0], expected, rtol=1e-3, atol=1e-4)
    eta = {tuple(row.tolist()): number for number, row in enumerate(result.draws["eta"])}
    index = [eta[tuple(row.tolist())] for row in posterior["eta"].values[0]]
    np.testing.assert_array_equal(data["posterior_predictive"]["y"].values[0], predicted["y"][index])
    assert (predicted["y"] - result.draws["theta"]).std().item() == pytest.approx(0.8, rel=0.03)
    if not resampled:
        difference = data["sample_stats"]["log_p"] - data["sample_stats"]["log_q"]
        np.testing.assert_allclose(difference.values[0], result.log_weight)
    table = az.summary(data, var_names=["mu", "tau"], kind="stats", round_to="none")
    assert float(table.loc["mu", "mean"]) == pytest.approx(posterior["mu"].values.mean(), abs=1e-3)


def test_arviz_draws_weighed_draws() -> None:
    import matplotlib.pyplot as plt

    torch.manual_seed(0)
    result = importance_sample(school, AutoNormal(school), Y)
    data = importance_sample_to_arviz(result)
    model = pca()
    with torch.no_grad():
        x = model(None, 3)
    each = importance_sample_to_arviz(importance_sample_each(model, near(model), x, draws=200))
    assert each["posterior"]["z"].dims == ("chain", "draw", "datum", "latent")
    assert each["sample_stats"]["log_weight"].dims == ("chain", "draw", "datum")
    for source, names in ((data, ["mu", "tau"]), (each, ["z"])):
        az.plot_pair(source, var_names=names)
        az.plot_forest(source, var_names=names)
        assert len(plt.get_fignums()) == 2
        plt.close("all")


def test_predictions_of_a_model_whose_data_follow_each_other() -> None:
    """Each datum is drawn around the one drawn before it, not around the one observed: variances add up."""

    def walk(y: Tensor) -> None:
        place = pyro.sample("start", dist.Normal(0.0, 1.0))
        for t, value in enumerate(y):
            place = pyro.sample(f"y{t}", dist.Normal(place, 0.5), obs=value)

    start = torch.full((4000,), 3.0)
    y = predict(walk, {"start": start}, Y[:3])
    assert set(y) == {"y0", "y1", "y2"}
    for t in range(3):
        assert y[f"y{t}"].mean().item() == pytest.approx(3.0, abs=0.06)
        assert y[f"y{t}"].var().item() == pytest.approx(0.25 * (t + 1), rel=0.1)
    assert torch.equal(predict(walk, {"start": start[:300]}, Y[:3])["y0"][:250], y["y0"][:250])


def test_the_figure_of_k() -> None:
    model = pca()
    with torch.no_grad():
        x = model(None, 40)
    each = importance_sample_each(model, near(model, scale=0.7), x, draws=400)
    figure = plot_khat(each.pareto_k)
    (points,) = (line for line in figure.axes[0].lines if len(line.get_xdata()) == 40)
    np.testing.assert_allclose(points.get_ydata(), each.pareto_k.sort().values)
    with pytest.raises(FlowvaeError, match="25 draws"):
        plot_khat(torch.tensor([math.nan]))


def test_the_export_of_a_pair_has_not_changed() -> None:
    """Names of dimensions, which summaries show."""
    from flowvae import Digits, Experiment
    from flowvae.networks import MLP

    data = Digits().load(0)
    pair = Experiment(latent=2, encoder=MLP((8,)), decoder=MLP((8,))).build(data)
    exported = to_arviz(pair.model, pair.guide, data.test[:3], draws=10)
    assert exported["posterior"]["z"].dims == ("chain", "draw", "datum", "latent")
    assert exported["log_likelihood"]["x"].dims == ("chain", "draw", "datum")
    assert exported["observed_data"]["x"].dims == ("datum", "channel", "row", "column")


def test_a_guide_on_a_part_of_the_support_is_warned_of() -> None:
    """The weights of a log-normal guide for a normal latent estimate half of the evidence, whatever they look like."""

    def model() -> None:
        pyro.sample("z", dist.Normal(0.0, 1.0))

    def narrow() -> None:
        pyro.sample("z", dist.LogNormal(-0.3, 0.8))

    def wide() -> None:
        pyro.sample("z", dist.Normal(0.2, 1.2))

    with pytest.warns(NarrowGuideWarning, match=r"'z'.* (4|5)\d% "):
        weighed = importance_sample(model, narrow, draws=4000)
    assert weighed.log_evidence.item() == pytest.approx(math.log(0.5), abs=0.05)
    assert importance_sample(model, wide, draws=4000).log_evidence.item() == pytest.approx(0.0, abs=0.05)
