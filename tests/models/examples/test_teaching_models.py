"""Small models that teach: against densities written with SciPy, reference draws, closed forms and integrals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from helpers import REFERENCE_FOLDER, needs_references
from pyro import poutine
from pyro.infer import MCMC, NUTS, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from pyro.infer.mcmc.util import initialize_model
from scipy import stats
from torch import Tensor, nn

from flowvae.core.errors import FlowvaeError
from flowvae.data import REFERENCES, load_reference
from flowvae.models import (
    Banana,
    EightSchools,
    Funnel,
    Garch11,
    LinearRegression,
    OrderedMixture,
    OrderedNormal,
    reference_model,
)
from flowvae.models.examples.garch import linear_recurrence

pytestmark = pytest.mark.usefixtures("float64")

Values = dict[str, Tensor]

MODELS = {
    "schools-centred": lambda: EightSchools(centred=True),
    "schools": lambda: EightSchools(centred=False),
    "funnel": lambda: Funnel(4),
    "funnel-noncentred": lambda: Funnel(4, centred=False),
    "banana": Banana,
    "regression": lambda: LinearRegression.correlated(30),
    "regression-flat": lambda: LinearRegression.correlated(30, beta_scale=None, noise="half-cauchy", noise_scale=2.5),
    "mixture": lambda: OrderedMixture.simulated(60),
    "garch": lambda: Garch11.simulated(37),
}
every_model = pytest.mark.parametrize("name", MODELS)


def sites(model: nn.Module) -> dict[str, Any]:
    """The sampled sites' distributions."""
    trace = poutine.util.prune_subsample_sites(poutine.trace(model).get_trace())
    return {name: site["fn"] for name, site in trace.iter_stochastic_nodes()}


def log_joint(model: nn.Module, values: Values) -> Tensor:
    """Log p(values, data), shape (S,), of S values of every site at once, in a plate around the model."""
    size = len(next(iter(values.values())))
    # a site outside of the model's own plate has an axis of length one in its place
    placed = {name: values[name] if fn.batch_shape else values[name].unsqueeze(1) for name, fn in sites(model).items()}

    def batched() -> None:
        with pyro.plate("draws", size, dim=-2):
            model()

    trace = poutine.trace(poutine.condition(batched, placed)).get_trace()
    trace.compute_log_prob()
    terms = [site["log_prob"] for site in trace.nodes.values() if site["type"] == "sample" and "log_prob" in site]
    return sum(term.sum(-1) for term in terms if term.ndim == 2)  # the plates' own sites have no axes


def log_unconstrained(model: nn.Module, free: Values) -> Tensor:
    """Log density of unconstrained sites, shape (S,)."""
    values, total = {}, 0.0
    for name, fn in sites(model).items():
        transform = torch.distributions.biject_to(fn.support)
        values[name] = transform(free[name])
        total = total + transform.log_abs_det_jacobian(free[name], values[name]).reshape(len(free[name]), -1).sum(1)
    return log_joint(model, values) + total


def release(model: nn.Module, values: Values) -> Values:
    """Unconstrained sites."""
    return {name: torch.distributions.biject_to(fn.support).inv(values[name]) for name, fn in sites(model).items()}


def to_sites(model: nn.Module, parameters: Values) -> tuple[Values, Tensor | float]:
    """The sampled sites of given parameters, and log |d sites / d parameters|."""
    if isinstance(model, EightSchools) and not model.centred:
        mu, tau, theta = (parameters[name] for name in ("mu", "tau", "theta"))
        raw = (theta - mu[:, None]) / tau[:, None]
        return {"mu": mu, "tau": tau, "theta_raw": raw}, -theta.shape[1] * tau.log()
    if isinstance(model, Garch11):
        left = 1 - parameters["alpha1"]
        return {**parameters, "share": parameters["beta1"] / left}, -left.log()
    return parameters, 0.0


def independent(model: nn.Module, p: dict[str, np.ndarray]) -> float:
    """Log density of one set of parameters and the data, written with SciPy, up to a constant."""
    if isinstance(model, EightSchools):
        prior = stats.norm.logpdf(p["mu"], 0, 5) + stats.halfcauchy.logpdf(p["tau"], scale=5)
        schools = stats.norm.logpdf(p["theta"], p["mu"], p["tau"]).sum()
        return prior + schools + stats.norm.logpdf(model.effect.numpy(), p["theta"], model.error.numpy()).sum()
    if isinstance(model, LinearRegression):
        flat = model.beta_scale is None
        prior = 0 if flat else stats.norm.logpdf(p["beta"], 0, 10).sum()
        prior += stats.halfcauchy.logpdf(p["sigma"], scale=2.5) if flat else stats.halfnorm.logpdf(p["sigma"], scale=10)
        return prior + stats.norm.logpdf(model.y.numpy(), model.x.numpy() @ p["beta"], p["sigma"]).sum()
    if isinstance(model, OrderedMixture):
        prior = stats.norm.logpdf(p["mu"], 0, 2).sum() + stats.halfnorm.logpdf(p["sigma"], scale=2).sum()
        prior += stats.beta.logpdf(p["theta"], 5, 5)
        first, second = (stats.norm.pdf(model.y.numpy(), p["mu"][i], p["sigma"][i]) for i in (0, 1))
        return prior + np.log(p["theta"] * first + (1 - p["theta"]) * second).sum()
    assert isinstance(model, Garch11)
    y, variance, total = model.y.numpy(), model.sigma1**2, 0.0
    for t in range(len(y)):
        if t:
            variance = p["alpha0"] + p["alpha1"] * (y[t - 1] - p["mu"]) ** 2 + p["beta1"] * variance
        total += stats.norm.logpdf(y[t], p["mu"], math.sqrt(variance))
    return total


def some_draws(model: nn.Module, size: int) -> tuple[list[Any], Values]:
    """Traces of the model, and the values of its latent sites, deterministic ones too, each (size, ...)."""
    traces = [poutine.util.prune_subsample_sites(poutine.trace(model).get_trace()) for _ in range(size)]
    for trace in traces:
        trace.compute_log_prob()
    latent = [
        name
        for name, site in traces[0].nodes.items()
        if site["type"] == "sample" and (not site["is_observed"] or site["infer"].get("_deterministic"))
    ]
    return traces, {name: torch.stack([trace.nodes[name]["value"] for trace in traces]) for name in latent}


def assert_same_density(model: nn.Module, parameters: Values) -> None:
    """Up to one constant."""
    values, log_jacobian = to_sites(model, parameters)
    ours = (log_joint(model, values) + log_jacobian).numpy()
    columns = {name: value.numpy() for name, value in parameters.items()}
    rows = [{name: value[s] for name, value in columns.items()} for s in range(len(ours))]
    truth = np.array([independent(model, row) for row in rows])
    assert truth.std() > 0.1
    np.testing.assert_allclose(ours - ours[0], truth - truth[0], rtol=1e-10, atol=1e-8)


@every_model
def test_many_draws_at_once_score_as_one_by_one(name: str) -> None:
    model = MODELS[name]()
    traces, values = some_draws(model, 7)
    expected = torch.stack([torch.as_tensor(trace.log_prob_sum()) for trace in traces])
    torch.testing.assert_close(log_joint(model, values), expected)


@pytest.mark.parametrize("name", ["schools-centred", "schools", "regression", "regression-flat", "mixture", "garch"])
def test_density_is_that_of_scipy(name: str) -> None:
    model = MODELS[name]()
    assert_same_density(model, some_draws(model, 20)[1])


@every_model
def test_pyros_own_unconstrained_density_agrees(name: str) -> None:
    model = MODELS[name]()
    _, potential, _, _ = initialize_model(model)
    free = release(model, some_draws(model, 5)[1])
    expected = [-potential({name: value[s] for name, value in free.items()}) for s in range(5)]
    torch.testing.assert_close(log_unconstrained(model, free), torch.stack(expected))


@every_model
@pytest.mark.parametrize("family", [AutoNormal, AutoMultivariateNormal])
def test_automatic_guides_fit_with_particles_in_parallel(name: str, family: Any) -> None:
    model = MODELS[name]()
    guide = family(model)
    loss = Trace_ELBO(50, vectorize_particles=True).differentiable_loss(model, guide)
    loss.backward()
    assert torch.isfinite(loss)
    for parameter in guide.parameters():
        assert parameter.grad is not None
        assert torch.isfinite(parameter.grad).all()
        assert parameter.grad.abs().sum() > 0
    pyro.clear_param_store()


@every_model
def test_sampling_in_parallel_gives_different_draws_of_the_right_shape(name: str) -> None:
    model = MODELS[name]()
    _, values = some_draws(model, 1)
    draws = Predictive(model, num_samples=6, parallel=True)()
    for site, value in values.items():
        drawn = draws[site].reshape(6, *value.shape[1:])
        assert torch.isfinite(drawn).all()
        assert (drawn.reshape(6, -1).diff(dim=0) != 0).all()


@every_model
def test_guides_predict_in_parallel(name: str) -> None:
    model = MODELS[name]()
    traces, values = some_draws(model, 1)
    draws = Predictive(poutine.uncondition(model), guide=AutoNormal(model), num_samples=6, parallel=True)()
    if "y" in traces[0]:
        values["y"] = traces[0].nodes["y"]["value"][None]
    for site, value in values.items():
        drawn = draws[site].reshape(6, *value.shape[1:])
        assert torch.isfinite(drawn).all()
        assert (drawn.reshape(6, -1).diff(dim=0) != 0).all()
    pyro.clear_param_store()


def test_data_follow_a_dtype_and_models_can_be_moved() -> None:
    for name in MODELS:
        model = MODELS[name]().float()
        _, values = some_draws(model, 2)
        assert {value.dtype for value in values.values()} == {torch.float32}, name
    assert EightSchools(torch.ones(3, dtype=torch.float32), [1, 2, 3]).effect.dtype == torch.float32


def test_nuts_runs_through_a_flat_prior() -> None:
    model = LinearRegression.correlated(40, 2, correlation=0.3, beta_scale=None)
    chain = MCMC(NUTS(model), num_samples=50, warmup_steps=30, disable_progbar=True)
    chain.run()
    beta = chain.get_samples()["beta"]
    exact = torch.linalg.lstsq(model.x, model.y[:, None]).solution[:, 0]  # flat prior: the posterior's mean
    error = torch.linalg.inv(model.x.T @ model.x).diagonal().sqrt()
    assert ((beta.mean(0) - exact).abs() < error).all()  # of 50 draws: several standard errors


# the posteriors against reference draws


def reference_case(name: str) -> tuple[nn.Module, Values]:
    centred = name == "centred"
    reference = load_reference(REFERENCE_FOLDER, next(iter(REFERENCES)) if centred else name)
    model = reference_model(reference, centred=centred)
    return model, {key: torch.tensor(value).flatten(0, 1) for key, value in reference.draws.items()}


every_reference = pytest.mark.parametrize("name", [*REFERENCES, "centred"])


@needs_references
@every_reference
def test_reference_draws_have_the_names_and_shapes_of_our_sites(name: str) -> None:
    model, draws = reference_case(name)
    trace = poutine.trace(model).get_trace()
    for parameter, values in draws.items():
        assert trace.nodes[parameter]["value"].shape == values.shape[1:]


@needs_references
@every_reference
def test_density_at_reference_draws_is_that_of_scipy(name: str) -> None:
    model, draws = reference_case(name)
    assert_same_density(model, {key: value[::250] for key, value in draws.items()})


@needs_references
@every_reference
def test_reference_draws_come_from_our_posterior(name: str) -> None:
    """Stein's identity: E[w s + ∇w] = 0 and E[(w s + ∇w) ⊗ u + w I] = 0, s the score in unconstrained coordinates u.

    It holds for any smooth weight w(u), for draws from the density whose score it is. The weight is 1. In the centred
    form it is τ²/(1 + τ²): the score of θ grows as 1/τ there, and without the weight its variance is infinite.
    """
    model, draws = reference_case(name)
    free = release(model, to_sites(model, draws)[0])
    parts = [value.reshape(len(value), -1) for value in free.values()]
    u = torch.cat(parts, 1)
    centre, width = u.mean(0), u.std(0)

    def score(unit: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores, weights and gradients of weights in standardized coordinates, (S, D), (S,), (S, D)."""
        unit = unit.clone().requires_grad_()
        pieces = (centre + width * unit).split([part.shape[1] for part in parts], 1)
        values = {key: piece.reshape(-1, *free[key].shape[1:]) for key, piece in zip(free, pieces, strict=True)}
        weight = torch.sigmoid(2 * values["tau"]) if name == "centred" else 0 * unit.sum(1) + 1  # values are log τ
        (slope,) = torch.autograd.grad(weight.sum(), unit, retain_graph=True)
        (gradient,) = torch.autograd.grad(log_unconstrained(model, values).sum(), unit)
        return gradient, weight.detach(), slope

    unit = (u - centre) / width
    gradient, weight, slope = (torch.cat(blocks) for blocks in zip(*map(score, unit.split(500)), strict=True))
    pull = weight[:, None] * gradient + slope
    square = unit[:, :, None] * pull[:, None] + weight[:, None, None] * torch.eye(u.shape[1])
    terms = torch.cat((pull[:, None], square), 1)
    t = terms.mean(0) / (terms.std(0) / math.sqrt(len(terms)))  # the draws are nearly independent
    assert t.abs().max() < 4.5  # of 20 to 110 statistics
    assert t.square().mean() < 2


# closed forms


def test_both_forms_of_eight_schools_have_one_density() -> None:
    centred, other = EightSchools(centred=True), EightSchools(centred=False)
    _, parameters = some_draws(centred, 10)
    values, log_jacobian = to_sites(other, parameters)
    torch.testing.assert_close(log_joint(centred, parameters), log_joint(other, values) + log_jacobian)
    trace = poutine.trace(poutine.condition(other, {key: value[3] for key, value in values.items()})).get_trace()
    torch.testing.assert_close(trace.nodes["theta"]["value"], parameters["theta"][3])


def test_funnel_density_is_that_of_both_forms() -> None:
    centred, other = Funnel(5), Funnel(5, centred=False)
    draws = centred.draw(10, seed=1)
    torch.testing.assert_close(log_joint(centred, draws), centred.log_density(**draws))
    width = (0.5 * draws["v"]).exp()
    raw = {"v": draws["v"], "x_raw": draws["x"] / width[:, None]}
    torch.testing.assert_close(centred.log_density(**draws), log_joint(other, raw) - 4 * width.log())


def test_funnel_draws_are_exact() -> None:
    draws = Funnel(3, scale=2.0).draw(4000, seed=0)
    raw = draws["x"] * (-0.5 * draws["v"]).exp()[:, None]
    for normal in (draws["v"] / 2, raw[:, 0], raw[:, 1]):
        assert stats.kstest(normal.numpy(), "norm").pvalue > 0.001
    assert np.abs(np.corrcoef(torch.column_stack((draws["v"], raw)).T.numpy()) - np.eye(3)).max() < 4 / math.sqrt(4000)


def test_best_mean_field_guide_of_the_funnel_in_closed_form() -> None:
    funnel = Funnel(4, scale=2.0)
    free = torch.tensor([0.0, 0.0, *(math.log(width) for width in funnel.mean_field())], requires_grad=True)
    torch.manual_seed(3)
    unit_v, unit_x = torch.randn(200_000), torch.randn(200_000, 3)
    v = free[0] + free[2].exp() * unit_v
    x = free[1] + free[3].exp() * unit_x
    entropy = dist.Normal(free[0], free[2].exp()).entropy() + 3 * dist.Normal(free[1], free[3].exp()).entropy()
    terms = funnel.log_density(v, x)
    error = (terms.std() / math.sqrt(len(terms))).item()
    elbo = terms.mean() + entropy
    assert elbo.item() == pytest.approx(-funnel.mean_field_gap(), abs=4 * error)
    (gradient,) = torch.autograd.grad(elbo, free)
    assert gradient.abs().max() < 0.03  # standard errors are below 0.007


def test_banana_density_integrates_to_one_and_has_its_moments() -> None:
    banana = Banana(width=1.5, bend=0.4, thickness=0.6)
    side_x, side_y = torch.linspace(-12, 12, 601), torch.linspace(-8, 60, 1201)
    x, y = torch.meshgrid(side_x, side_y, indexing="ij")
    mass = banana.log_density(x, y).exp() * (side_x[1] - side_x[0]) * (side_y[1] - side_y[0])
    variance = 2 * 0.4**2 * 1.5**4 + 0.6**2
    for value, expected in ((1, 1.0), (y, 0.0), (y**2, variance), (x * y, 0.0), (x**2, 1.5**2)):
        assert (mass * value).sum().item() == pytest.approx(expected, abs=1e-6)


def test_banana_draws_follow_its_density() -> None:
    banana = Banana()
    draws = banana.draw(4000, seed=0)
    torch.testing.assert_close(log_joint(banana, draws), banana.log_density(**draws))
    across = (draws["y"] - 0.5 * (draws["x"] ** 2 - 4)) / 0.5
    for normal in (draws["x"] / 2, across):
        assert stats.kstest(normal.numpy(), "norm").pvalue > 0.001


def test_exact_draws_are_those_of_their_seed() -> None:
    for model in (Funnel(3), Banana()):
        first, again, other = model.draw(5, seed=1), model.draw(5, seed=1), model.draw(5, seed=2)
        for name in first:
            assert torch.equal(first[name], again[name])
            assert not torch.equal(first[name], other[name])


def test_ordered_normal_is_a_density_of_its_own_draws() -> None:
    ordered = OrderedNormal(torch.tensor(2.0), 2)
    side = torch.linspace(-16, 16, 801)
    x, y = torch.meshgrid(side, side, indexing="ij")
    above = y > x
    values = torch.stack((x[above], y[above]), -1)
    mass = ordered.log_prob(values).exp() * (side[1] - side[0]) ** 2
    diagonal = ordered.log_prob(torch.stack((side, side + 1e-12), -1)).exp() * (side[1] - side[0]) ** 2
    # the order cuts the cells of the diagonal in half
    assert mass.sum().item() + 0.5 * diagonal.sum().item() == pytest.approx(1, abs=1e-6)
    draws = ordered.sample((4000,))
    assert (draws[:, 1] > draws[:, 0]).all()
    # the larger of two has the distribution function Φ²
    assert stats.kstest(stats.norm.cdf(draws[:, 1].numpy(), 0, 2) ** 2, "uniform").pvalue > 0.001


def test_linear_recurrence_is_the_loop() -> None:
    for length in (1, 2, 7, 64, 65):
        a, b = torch.rand(3, 2, length), torch.rand(3, 2, 1)
        state, loop = torch.zeros(3, 2), []
        for t in range(length):
            state = a[..., t] + b[..., 0] * state
            loop.append(state)
        torch.testing.assert_close(linear_recurrence(a, b), torch.stack(loop, -1))


def test_garch_prior_is_flat_over_the_triangle() -> None:
    model = Garch11([5.0, 5.1, 4.9])
    values = Predictive(model, num_samples=4000, parallel=True)()
    alpha1, beta1 = values["alpha1"].flatten().numpy(), values["beta1"].flatten().numpy()
    # four congruent triangles: three corners and the middle
    corner = 1 * (alpha1 > 0.5) + 2 * (beta1 > 0.5) + 3 * (alpha1 + beta1 < 0.5)
    assert stats.chisquare(np.bincount(corner, minlength=4)).pvalue > 0.001


def test_simulated_data_are_those_of_their_seed() -> None:
    for make in (LinearRegression.correlated, OrderedMixture.simulated, Garch11.simulated):
        assert torch.equal(make(seed=1).y, make(seed=1).y)
        assert not torch.equal(make(seed=1).y, make(seed=2).y)


def test_correlated_inputs_are_correlated() -> None:
    model = LinearRegression.correlated(4000, 3, correlation=0.8)
    found = np.corrcoef(model.x.T.numpy())
    np.testing.assert_allclose(found[~np.eye(3, dtype=bool)], 0.8, atol=0.03)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EightSchools([1.0, 2.0], [1.0]), "2 effects and 1 errors"),
        (lambda: EightSchools([1.0, 2.0], [1.0, 0.0]), "error: value 0 .* above 0"),
        (lambda: EightSchools([1.0, math.nan], [1.0, 1.0]), "effect: value nan"),
        (lambda: EightSchools("many", [1.0]), "must be an array of numbers"),
        (lambda: Funnel(1), "dimension = 1"),
        (lambda: Funnel(scale=0.0), "scale = 0"),
        (lambda: Banana(thickness=-1.0), "thickness = -1"),
        (lambda: Banana(bend=math.inf), "bend = inf"),
        (lambda: LinearRegression([1.0], [1.0]), r"x: shape \(1,\)"),
        (lambda: LinearRegression([[1.0]], [1.0, 2.0]), "1 rows of x for 2 values"),
        (lambda: LinearRegression([[1.0]], [1.0], noise="cauchy"), "did you mean half-cauchy"),
        (lambda: LinearRegression([[1.0]], [1.0], beta_scale=0.0), "beta_scale = 0.0"),
        (lambda: LinearRegression.correlated(correlation=1.0), "correlation = 1"),
        (lambda: OrderedMixture([]), "hold one value or more"),
        (lambda: OrderedMixture.simulated(0), "size = 0"),
        (lambda: Garch11([1.0], sigma1=0.0), "sigma1 = 0"),
        (lambda: Garch11.simulated(0), "size = 0"),
    ],
)
def test_mistakes_are_named(make: Any, message: str) -> None:
    with pytest.raises(FlowvaeError, match=message):
        make()


@needs_references
def test_only_eight_schools_has_a_centred_form() -> None:
    reference = load_reference(REFERENCE_FOLDER, "garch-garch11")
    with pytest.raises(FlowvaeError, match="only eight schools"):
        reference_model(reference, centred=True)
