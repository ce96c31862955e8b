"""Flows as models of data: maximum likelihood, dequantization and its bounds, against sums and integrals."""

from __future__ import annotations

import math
from itertools import product

import pyro
import pytest
import torch
from helpers import disturb
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO
from pyro.optim import Adam
from torch import Size, Tensor, nn
from torch.distributions import AffineTransform
from zuko.lazy import LazyTransform
from zuko.transforms import ComposedTransform, LULinearTransform

from flowvae.core.errors import FlowvaeError, SlowDirectionWarning
from flowvae.data import Digits, Moons, first
from flowvae.evaluation import FlowLikelihoods, flow_metrics, measure_flow
from flowvae.flows import MAF, NAF, NSF, FlowSpec, Glow, RealNVP
from flowvae.guides import FlowNoise, NoGuide, UniformNoise
from flowvae.inference import Training, fit
from flowvae.models import DequantizedFlow, FlowModel
from flowvae.networks import MLP

TOTAL = 2  # counts 0, 1, 2 in two dimensions: nine data, whose probabilities can be summed


def tiny(alpha: float = 0.0, scale: float = 0.3) -> DequantizedFlow:
    """A flow over two counts, float64 where the test asks for it."""
    model = DequantizedFlow(MAF(hidden_features=(8,)).transform(2), 2, TOTAL, alpha)
    disturb(model, scale)
    return model


def counts() -> Tensor:
    return torch.tensor(list(product(range(TOTAL + 1), repeat=2)), dtype=torch.get_default_dtype())


@torch.no_grad()
def exact_log_probability(model: DequantizedFlow, x: Tensor, nodes: int = 60) -> Tensor:
    """log ∫ p_v(x + u) du over the unit square by quadrature.

    After the substitution u = t²(3 − 2t), twice, the nodes gather at the edges of the cell, where the density of a
    logit-transformed variable has singular derivatives.
    """
    t = (torch.arange(nodes) + 0.5) / nodes
    u, slope = t, torch.ones(nodes)
    for _ in range(2):
        u, slope = u**2 * (3 - 2 * u), slope * 6 * u * (1 - u)
    noise = torch.cartesian_prod(u, u)
    weight = torch.cartesian_prod(slope, slope).prod(1) / nodes**2
    density = model.flow().log_prob(x[:, None] + noise).exp()
    return (density * weight).sum(1).log()


@pytest.mark.usefixtures("float64")
def test_probabilities_of_all_counts_sum_to_one() -> None:
    for seed in range(3):
        model = DequantizedFlow(MAF(hidden_features=(8,)).transform(2), 2, TOTAL, alpha=0.0)
        disturb(model, 0.2, seed)
        total = exact_log_probability(model, counts(), nodes=250).exp().sum().item()
        assert math.isclose(total, 1, abs_tol=1e-4)


@pytest.mark.usefixtures("float64")
def test_with_alpha_they_sum_to_the_mass_between_the_ends() -> None:
    model = tiny(alpha=0.05)
    total = exact_log_probability(model, counts()).exp().sum().item()
    with torch.no_grad():
        v = model.flow().sample((200_000,))
    inside = ((v > 0) & (v < TOTAL + 1)).all(1).double().mean().item()
    assert total < 0.99
    assert abs(total - inside) < 4 * math.sqrt(inside * (1 - inside) / len(v))


@pytest.mark.parametrize("guide", ["uniform", "flow"])
@pytest.mark.usefixtures("float64")
def test_the_bound_is_below_the_exact_probability_and_draws_close_the_gap(guide: str) -> None:
    model = tiny()
    q: nn.Module = UniformNoise()
    if guide == "flow":
        q = FlowNoise(nn.Linear(2, 4), RealNVP(hidden_features=(8,)), 2, 4)
        disturb(q, 0.2)
    x = counts()
    exact = exact_log_probability(model, x)
    gaps = []
    for draws in (1, 5, 25, 3_000):
        results = [measure_flow(model, q, x, draws, seed) for seed in range(1 if draws == 3_000 else 40)]
        estimate = torch.stack([result.log_likelihood for result in results]).mean(0)
        gaps.append((exact - estimate).mean().item())
    last = results[0]
    torch.testing.assert_close(last.log_likelihood, exact, rtol=0, atol=0.05)
    assert (last.bound < exact).all()
    assert gaps[0] > gaps[1] > gaps[2] > 0
    assert abs(gaps[3]) < 0.02


@pytest.mark.usefixtures("float64")
def test_the_weight_is_the_density_of_the_noisy_datum() -> None:
    """What Pyro adds up over the sites is log p_v(x + u) − log q(u | x), with u from the guide."""
    model = tiny()
    guide = FlowNoise(nn.Linear(2, 4), RealNVP(hidden_features=(8,)), 2, 4)
    disturb(guide, 0.2)
    x = counts()
    guide_trace = poutine.trace(guide).get_trace(x)
    model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(x)
    u = guide_trace.nodes["noise"]["value"]
    assert ((u > 0) & (u < 1)).all()
    weight = model_trace.log_prob_sum() - guide_trace.log_prob_sum()
    direct = (model.flow().log_prob(x + u) - guide.posterior(x).log_prob(u.clone())).sum()
    torch.testing.assert_close(weight, direct)


@pytest.mark.usefixtures("float64")
def test_flow_noise_starts_uniform_and_is_a_density_on_the_unit_square() -> None:
    guide = FlowNoise(nn.Linear(2, 4), RealNVP(hidden_features=(8,)), 2, 4)
    x = counts()
    u = guide(x)
    torch.testing.assert_close(guide.posterior(x).log_prob(u), torch.zeros(9), rtol=0, atol=1e-9)
    disturb(guide, 0.1)
    nodes = (torch.arange(400) + 0.5) / 400
    grid = torch.cartesian_prod(nodes, nodes)
    density = guide.posterior(x[5]).log_prob(grid).exp()
    assert math.isclose(density.mean().item(), 1, abs_tol=5e-3)
    assert density.std() > 0.05


@pytest.mark.usefixtures("float64")
def test_variational_dequantization_closes_the_gap_of_the_uniform_one() -> None:
    model = tiny(scale=0.5).requires_grad_(False)
    guide = FlowNoise(nn.Linear(2, 16), NSF(), 2, 16)
    x = counts()
    exact = exact_log_probability(model, x)
    svi = SVI(model, guide, Adam({"lr": 5e-3}), loss=Trace_ELBO())
    batch = x.repeat(20, 1)
    for _ in range(300):
        svi.step(batch)
    uniform, flow = ((exact - measure_flow(model, q, x, 500).bound).mean() for q in (UniformNoise(), guide))
    assert 0 < flow < 0.3 * uniform


@pytest.mark.parametrize("flow", [MAF(), NSF(), RealNVP(mask="halves")], ids=lambda f: type(f).__name__)
def test_a_density_in_the_plane_integrates_to_one(flow: FlowSpec) -> None:
    data = Moons(train=500, valid=100, test=10).load(0)
    model = FlowModel(flow.transform(2), 2)
    fit(model, NoGuide(), data.train, data.valid, Training(epochs=3, device="cpu"), progress=False)
    side = torch.linspace(-6, 7, 651)
    with torch.no_grad():
        density = model.flow().log_prob(torch.cartesian_prod(side, side)).double().exp()
    assert math.isclose(density.sum().item() * (13 / 650) ** 2, 1, abs_tol=2e-3)


def test_maximum_likelihood_by_svi_finds_a_gaussian() -> None:
    """An affine flow with an empty guide is a Gaussian; its optimum has the data's own mean and covariance."""
    mixing = torch.tensor([[1.0, 0.0, 0.0], [0.8, 0.5, 0.0], [-0.4, 0.3, 2.0]])
    x = torch.randn(500, 3) @ mixing.T + torch.tensor([1.0, -2.0, 0.5])
    model = FlowModel(Affine(3), 3)
    svi = SVI(model, NoGuide(), Adam({"lr": 0.02}), loss=Trace_ELBO())
    for _ in range(1500):
        loss = svi.step(x)
    mean, covariance = x.mean(0), x.T.cov(correction=0)
    # the flow is affine, so three unit vectors and the origin give its matrix
    ends = model.decode(torch.cat((torch.zeros(1, 3), torch.eye(3)))).detach()
    matrix = (ends[1:] - ends[0]).T
    torch.testing.assert_close(ends[0], mean, rtol=0, atol=1e-2)
    torch.testing.assert_close(matrix @ matrix.T, covariance, rtol=0, atol=2e-2)
    best = torch.distributions.MultivariateNormal(mean, covariance).log_prob(x).sum().item()
    assert abs(-loss - best) < 0.05
    assert -loss < best + 0.02
    assert len(pyro.get_param_store()) == 0


class Affine(LazyTransform):
    """u = A (x − b), with A = LU."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.eye(features))
        self.shift = nn.Parameter(torch.zeros(features))

    def forward(self, c: Tensor | None = None) -> ComposedTransform:
        centre = AffineTransform(-self.shift, torch.ones_like(self.shift), event_dim=1)
        return ComposedTransform(centre, LULinearTransform(self.matrix))


def test_fit_with_no_guide_measures_the_exact_likelihood() -> None:
    data = Moons(train=500, valid=200, test=10).load(0)
    model = FlowModel(NSF().transform(2), 2)
    settings = Training(epochs=3, particles=2, device="cpu")
    fitted = fit(model, NoGuide(), data.train, data.valid, settings, progress=False)
    exact = model.flow().log_prob(data.valid).mean().item()
    assert math.isclose(fitted.history["valid_elbo"][fitted.best_epoch], exact, abs_tol=1e-4)
    result = measure_flow(model, NoGuide(), data.valid)
    assert result.draws == 0
    torch.testing.assert_close(result.bound, model.flow().log_prob(data.valid).detach())


@pytest.mark.parametrize("vectorized", [False, True])
@pytest.mark.parametrize("kind", [FlowModel, DequantizedFlow])
def test_images_have_the_density_of_their_rows(kind: type[FlowModel], vectorized: bool) -> None:
    """A flow acts on the flattened data: its densities, ELBOs and samples are those of the same flow over rows."""
    shape, total = Size((2, 2, 3)), (3,) if kind is DequantizedFlow else ()
    flow = MAF(hidden_features=(8,)).transform(12)
    disturb(flow, 0.3)
    images, rows = kind(flow, shape, *total), kind(flow, 12, *total)
    x = torch.randint(0, 4, (5, *shape), generator=torch.Generator().manual_seed(0)).float()
    guide: nn.Module = UniformNoise() if total else NoGuide()
    elbo = Trace_ELBO(num_particles=3, max_plate_nesting=1, vectorize_particles=vectorized)
    losses = []
    for model, data in ((images, x), (rows, x.flatten(1))):
        torch.manual_seed(4)
        losses.append(elbo.loss(model, guide, data))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert math.isfinite(losses[0])
    torch.testing.assert_close(images.encode(x), rows.encode(x.flatten(1)))
    drawn = []
    for model in (images, rows):
        torch.manual_seed(5)
        drawn.append(model.generate(7))
    assert drawn[0].shape == (7, 2, 2, 3)
    torch.testing.assert_close(drawn[0].flatten(1), drawn[1])
    with pytest.raises(FlowvaeError, match=r"\(5, 12\).*\(N, 2, 2, 3\)"):
        images(x.flatten(1))


@pytest.mark.usefixtures("float64")
def test_flow_noise_over_images_is_that_over_their_rows() -> None:
    shape = Size((1, 1, 2))
    guide = FlowNoise(MLP((4,)).build(shape), RealNVP(hidden_features=(8,)), shape, 4)
    disturb(guide, 0.1)
    x = counts().reshape(-1, *shape)
    u = guide(x)
    assert u.shape == x.shape
    nodes = (torch.arange(400) + 0.5) / 400
    grid = torch.cartesian_prod(nodes, nodes).reshape(-1, *shape)
    with torch.no_grad():
        density = guide.posterior(x[5]).log_prob(grid).exp()
    assert math.isclose(density.mean().item(), 1, abs_tol=5e-3)
    flow = MAF(hidden_features=(8,)).transform(2)
    disturb(flow, 0.1)
    images, rows = DequantizedFlow(flow, shape, TOTAL, 0.0), DequantizedFlow(flow, 2, TOTAL, 0.0)
    found = measure_flow(images, guide, x, 3_000).log_likelihood
    torch.testing.assert_close(found, exact_log_probability(rows, x.flatten(1)), rtol=0, atol=0.05)


@pytest.mark.parametrize(
    "flow",
    [MAF(), RealNVP(mask="checkerboard"), Glow(steps=2, hidden_channels=8)],
    ids=lambda f: type(f).__name__,
)
def test_every_parameter_of_a_pair_gets_a_gradient(flow: FlowSpec) -> None:
    data = Digits().load(0)
    x = first(data.train, 16)
    model = DequantizedFlow(flow.transform(64), data.shape, 16)
    guide = FlowNoise(MLP((8,)).build(data.shape), RealNVP(), data.shape, 8)
    disturb(model, 0.02)
    disturb(guide, 0.02)
    Trace_ELBO().loss_and_grads(model, guide, x)
    for part in (model, guide):
        for name, parameter in part.named_parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.abs().sum() > 0, name


def test_predictive_and_generate_give_counts() -> None:
    data = Digits().load(0)
    model = DequantizedFlow(Glow(steps=1, hidden_channels=8).transform(64), data.shape, 16)
    drawn = Predictive(model, num_samples=4)(None, 6)["x"]
    assert drawn.shape == (4, 6, 1, 8, 8)
    assert model.generate(5).shape == (5, 1, 8, 8)
    for x in (drawn, model.generate(5, temperature=0.7)):
        assert torch.equal(x, x.round())
        assert 0 <= x.min() <= x.max() <= 16
    x = first(data.test, 5)
    assert torch.equal(model.decode(model.encode(x)), x)
    graph = pyro.render_model(model, model_args=(x,))
    assert "noise" in graph.source


def test_temperature_scales_the_base() -> None:
    model = FlowModel(MAF().transform(2), 2)
    assert math.isclose(model.generate(20_000, 0.5).std().item(), 0.5, rel_tol=0.02)
    for temperature in (0.0, -1.0, math.inf):
        with pytest.raises(FlowvaeError, match="temperature"):
            model.generate(5, temperature)


def test_mistakes_are_named() -> None:
    model = DequantizedFlow(MAF().transform(2), 2, TOTAL)
    for value in (-1.0, 3.0, 0.5, math.nan):
        with pytest.raises(FlowvaeError, match="whole numbers from 0 to 2"):
            model(torch.tensor([[0.0, value]]))
    with pytest.raises(FlowvaeError, match="give data x"):
        model()
    with pytest.raises(FlowvaeError, match="give data x"):
        FlowModel(MAF().transform(2), 2)()
    with pytest.raises(FlowvaeError, match="total"):
        DequantizedFlow(MAF().transform(2), 2, 0)
    with pytest.raises(FlowvaeError, match="draws = 0"):
        measure_flow(model, UniformNoise(), counts(), draws=0)


def test_metrics_are_in_bits_per_dim_with_their_standard_error() -> None:
    nats = torch.tensor([1.0, 2.0, 3.0, 6.0])
    bound, bits = flow_metrics(FlowLikelihoods(-nats - 1, -nats, 100), 4, True, "test", {"seed": 0})
    assert math.isclose(bits.value, 3 / (4 * math.log(2)), rel_tol=1e-6)
    assert math.isclose(bound.value, 4 / (4 * math.log(2)), rel_tol=1e-6)
    assert bits.se is not None
    assert math.isclose(bits.se, nats.std().item() / 2 / (4 * math.log(2)), rel_tol=1e-6)
    assert bits.protocol == {"seed": 0, "draws": 100}
    (nll,) = flow_metrics(FlowLikelihoods(-nats, -nats, 0), 4, False, "test", {})
    assert (nll.name, nll.value, nll.unit) == ("nll", 3.0, "nats per datum")


def test_the_measure_does_not_depend_on_the_other_data() -> None:
    model = tiny()
    x = counts()[torch.arange(100) % 9]
    whole = measure_flow(model, UniformNoise(), x, draws=30).log_likelihood
    part = measure_flow(model, UniformNoise(), x[:64], draws=30).log_likelihood
    torch.testing.assert_close(whole[:64], part)


def test_parts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(FlowvaeError, match=r"DequantizedFlow\.total = '3'"):
        DequantizedFlow(MAF().transform(2), 2, "3")  # type: ignore[arg-type]
    with pytest.raises(FlowvaeError, match=r"FlowNoise\.flow = .* cannot be a posterior"):
        FlowNoise(nn.Identity(), NAF(), 2, 4)
    with pytest.warns(SlowDirectionWarning, match="MAF as a guide"):
        FlowNoise(nn.Identity(), MAF(), 8, 4)
