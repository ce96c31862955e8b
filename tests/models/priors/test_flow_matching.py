"""Flow matching: exact with the velocity in closed form, and close to other densities after training."""

from __future__ import annotations

import pytest
import torch
from torch import Size, Tensor, nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from flowvae import MAF, NSF, Condition, Experiment, FlowvaeError, SecondStage, Training
from flowvae.models import FlowMatching
from flowvae.models.priors.flow_matching import FlowMatchingPrior, Velocity

MEAN, SCALE = 1.2, 0.5


class Exact(nn.Module):
    """The velocity from N(0, 1) to N(μ, σ²) for independent pairs, in every dimension."""

    def forward(self, t: Tensor, z: Tensor, c: Tensor | None = None) -> Tensor:
        mean = MEAN if c is None else MEAN + c
        slope = (t * SCALE**2 - (1 - t)) / ((1 - t) ** 2 + t**2 * SCALE**2)
        return mean + slope * (z - t * mean)

    def with_divergence(self, t: Tensor, z: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        slope = (t * SCALE**2 - (1 - t)) / ((1 - t) ** 2 + t**2 * SCALE**2)
        return self(t, z, c), z.shape[-1] * slope * torch.ones_like(z[..., 0])


def truth(*batch: int, features: int = 3) -> Independent:
    return Independent(Normal(torch.full((*batch, features), MEAN), SCALE), 1)


def test_the_exact_velocity_gives_the_exact_density() -> None:
    prior = FlowMatchingPrior(Exact(), 3)
    z = truth().sample((200,))
    assert torch.allclose(prior().log_prob(z), truth().log_prob(z), atol=2e-3)
    assert prior.density_error(z) < 2e-3
    loose = FlowMatchingPrior(Exact(), 3, tolerance=1e-2)
    assert loose.density_error(z) > 10 * prior.density_error(z)


def test_the_exact_velocity_gives_exact_draws() -> None:
    prior = FlowMatchingPrior(Exact(), 3)
    z = prior().sample(Size((4000,)))
    assert torch.allclose(z.mean(0), torch.full((3,), MEAN), atol=0.04)
    assert torch.allclose(z.std(0), torch.full((3,), SCALE), atol=0.03)


def test_the_exact_velocity_minimizes_the_objective() -> None:
    """Its gradient with respect to a shift and a factor of the velocity vanishes there."""

    class Changed(Exact):
        def __init__(self) -> None:
            super().__init__()
            self.shift = nn.Parameter(torch.zeros(3))
            self.factor = nn.Parameter(torch.ones(3))

        def forward(self, t: Tensor, z: Tensor, c: Tensor | None = None) -> Tensor:
            return self.factor * super().forward(t, z) + self.shift

    prior = FlowMatchingPrior(Changed(), 3)
    prior.objective(truth().sample((100_000,))).backward()
    assert prior.velocity.shift.grad.abs().max() < 0.02  # type: ignore[union-attr, operator]
    assert prior.velocity.factor.grad.abs().max() < 0.05  # type: ignore[union-attr, operator]


def test_the_objective_is_the_conditional_variance_at_the_optimum() -> None:
    """E Var(z₁ − z₀ given z_t) = ∫ [1 + σ² − (tσ² − (1 − t))² / ((1 − t)² + t²σ²)] dt in each dimension."""
    t = torch.linspace(0, 1, 2001, dtype=torch.float64)
    covariance, variance = t * SCALE**2 - (1 - t), (1 - t) ** 2 + t**2 * SCALE**2
    exact = 3 * torch.trapezoid(1 + SCALE**2 - covariance**2 / variance, t).item()
    found = FlowMatchingPrior(Exact(), 3).objective(truth().sample((100_000,)))
    assert found.item() == pytest.approx(exact, rel=0.02)


def test_a_condition_moves_density_and_draws() -> None:
    prior = FlowMatchingPrior(Exact(), 3, context=3)
    c = torch.tensor([[0.0, 0.0, 0.0], [2.0, -1.0, 0.0]])
    given = prior(c)
    assert given.batch_shape == (2,)
    z = truth(2).sample((5,)) + c
    assert torch.allclose(given.log_prob(z), truth(2).log_prob(z - c), atol=2e-3)
    assert torch.allclose(given.sample(Size((2000,))).mean(0), MEAN + c, atol=0.06)


def test_untrained_it_is_the_standard_normal() -> None:
    prior = FlowMatching(hidden_features=(8, 8)).build(4)
    z = torch.randn(6, 4)
    assert torch.allclose(prior().log_prob(z), Normal(0.0, 1.0).log_prob(z).sum(-1), atol=1e-5)


@pytest.mark.usefixtures("float64")
def test_gradients_of_the_density_are_those_of_finite_differences() -> None:
    """Of parameters, as joint training needs them, and of codes, as annealed importance sampling does."""
    prior = FlowMatching(hidden_features=(6, 6), tolerance=1e-8).build(2)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    z = torch.randn(3, 2).requires_grad_()
    weight = prior.velocity.outer.weight
    of_z, of_weight = torch.autograd.grad(prior().log_prob(z).sum(), (z, weight))
    for tensor, gradient, index in ((z, of_z, (1, 0)), (weight, of_weight, (0, 3))):
        values = []
        with torch.no_grad():
            for step in (1e-5, -2e-5):
                tensor[index] += step
                values.append(prior().log_prob(z).sum().item())
            tensor[index] += 1e-5
        assert gradient[index].item() == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-3, abs=1e-5)


@pytest.mark.usefixtures("float64")
def test_the_divergence_is_the_trace_of_the_jacobian() -> None:
    velocity = Velocity(3, 2, (7, 5))
    nn.init.normal_(velocity.outer.weight)
    t, z, c = torch.tensor(0.3), torch.randn(4, 3), torch.randn(4, 2)
    value, divergence = velocity.with_divergence(t, z, c)
    assert torch.allclose(value, velocity(t, z, c))
    for row in range(4):
        jacobian = torch.autograd.functional.jacobian(lambda one, row=row: velocity(t, one, c[row]), z[row])
        assert divergence[row].item() == pytest.approx(jacobian.trace().item(), abs=1e-12)


def test_trained_on_a_mixture_it_agrees_with_an_autoregressive_flow_and_integrates_to_one() -> None:
    places = torch.tensor([[-1.2, 0.0], [1.2, 0.6]])
    codes = MixtureSameFamily(Categorical(torch.ones(2)), Independent(Normal(places, 0.5), 1))
    matched, flow = FlowMatching(hidden_features=(64, 64)).build(2), NSF(transforms=1).build(2)
    optimizer = torch.optim.Adam([*matched.parameters(), *flow.parameters()], 2e-2)
    for step in range(150):
        for group in optimizer.param_groups:
            group["lr"] = 2e-2 * (1 - step / 150)
        z = codes.sample((512,))
        optimizer.zero_grad()
        (matched.objective(z) - flow().log_prob(z).mean()).backward()
        optimizer.step()
    matched.eval()
    z = codes.sample((4000,))
    with torch.no_grad():
        found, other, exact = matched().log_prob(z), flow().log_prob(z), codes.log_prob(z)
        assert 0 < (exact - found).mean() < 0.1  # KL of the codes from the prior
        assert (found - other).mean().abs() < 0.1
        side = torch.linspace(-5, 5, 101)
        mass = matched().log_prob(torch.cartesian_prod(side, side)).exp().sum().item() * 0.1**2
    assert mass == pytest.approx(1.0, abs=3e-3)
    drawn = matched().sample(Size((4000,)))
    assert torch.allclose(drawn.mean(0), z.mean(0), atol=0.1)
    assert torch.allclose(drawn.T.cov(), z.T.cov(), atol=0.15)
    assert matched.facts()["ode_error"] < 5e-3


def test_its_error_is_measured_on_draws_that_do_not_change_the_random_state() -> None:
    prior = FlowMatchingPrior(Exact(), 3)
    state = torch.random.get_rng_state()
    facts = prior.facts()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert facts == prior.facts()
    assert 0 < facts["ode_error"] < 2e-3


@pytest.mark.parametrize("fine_tune", [False, True])
def test_a_conditional_prior_is_fitted_by_class(fine_tune: bool) -> None:
    quick = Training(epochs=1, batch_size=256, device="cpu")
    stage = SecondStage(FlowMatching(hidden_features=(8, 8)), quick, fine_tune)
    experiment = Experiment(latent=2, condition=Condition(), prior=MAF(1, (8,)), inference=quick, second_stage=stage)
    run = experiment.run(progress=False)
    z, _ = run.pair.model.generate(c=torch.eye(10))
    assert z.shape == (10, 2)
    assert run.history["valid_elbo"].notna().all()


@pytest.mark.parametrize(("tolerance", "words"), [(0.2, "0.2"), (1e-9, "1e-09"), (0, "tolerance = 0")])
def test_a_tolerance_that_cannot_be_is_refused(tolerance: float, words: str) -> None:
    with pytest.raises(FlowvaeError) as refused:
        FlowMatching(tolerance=tolerance).build(2)
    assert words in str(refused.value)


def test_a_velocity_has_two_hidden_layers() -> None:
    with pytest.raises(FlowvaeError, match=r"\(8, 8, 8\)"):
        FlowMatching(hidden_features=(8, 8, 8))
