"""The energy prior: its sampler, its constant and its Wasserstein view against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Size, Tensor, nn
from torch.distributions import Independent, MultivariateNormal, Normal
from zuko.lazy import LazyDistribution

from flowvae import IAF, FlowvaeError, Mixture
from flowvae.flows import NAF, Linear
from flowvae.flows.pyro_adapter import PyroFlow
from flowvae.models import Energy
from flowvae.models.priors.energy import EnergyPrior
from flowvae.networks import MLP, Lipschitz

TARGET = MultivariateNormal(torch.tensor([0.5, -1.0]), torch.tensor([[0.6, 0.3], [0.3, 0.5]]))


class Quadratic(nn.Module):
    """f with E(z) = ½ (z − μ)ᵀ Σ⁻¹ (z − μ)."""

    def forward(self, z: Tensor) -> Tensor:
        centred = z - TARGET.mean
        energy = (centred @ TARGET.precision_matrix * centred).sum(-1) / 2
        return (energy + Normal(0.0, 1.0).log_prob(z).sum(-1)).unsqueeze(-1)


class PointMass(LazyDistribution):
    """A sampler whose draws are all at one place, with a constant in the place of its log-density."""

    def __init__(self, place: Tensor) -> None:
        super().__init__()
        self.register_buffer("place", place)

    def forward(self, c: Tensor | None = None) -> object:
        return Independent(Normal(self.place, 1e-6), 1)


def quadratic(**settings: object) -> EnergyPrior:
    sampler = Linear().build(2)
    return EnergyPrior(Energy(**settings), 2, Quadratic(), sampler)  # type: ignore[arg-type]


def test_the_sampler_of_a_quadratic_energy_becomes_its_gaussian_and_gives_its_constant() -> None:
    """log Z = (D/2) log 2π + ½ log det Σ and g* = N(μ, Σ)."""
    prior = quadratic()
    optimizer = torch.optim.Adam(prior.sampler.parameters(), 0.03)
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 0.03 * (1 - step / 300)
        optimizer.zero_grad()
        prior.objective(torch.zeros(256, 2)).backward()
        optimizer.step()
    exact = math.log(2 * math.pi) + TARGET.covariance_matrix.logdet().item() / 2
    g = PyroFlow(prior.sampler())
    z, log_g = g.rsample_and_log_prob((5000,))
    assert torch.allclose(z.mean(0), TARGET.mean, atol=0.05)
    assert torch.allclose(z.T.cov(), TARGET.covariance_matrix, atol=0.05)
    bound = (prior.log_unnormalized(z) - log_g).mean().item()  # E_g[−E] + H(g)
    assert bound == pytest.approx(exact, abs=0.02)
    found = prior.estimate()
    assert abs(found.value - exact) < 4 * found.standard_error < 0.03


def test_the_constant_does_not_depend_on_a_good_sampler() -> None:
    prior = quadratic(constant_draws=200_000)  # whose sampler is still N(0, I)
    exact = math.log(2 * math.pi) + TARGET.covariance_matrix.logdet().item() / 2
    found = prior.estimate()
    assert 0 < found.standard_error < 0.01
    assert abs(found.value - exact) < 4 * found.standard_error
    assert prior().log_prob(TARGET.mean).item() == pytest.approx(
        TARGET.log_prob(TARGET.mean).item(), abs=4 * found.standard_error
    )


def test_a_mode_that_the_sampler_has_lost_is_found_by_the_constant() -> None:
    """The sampler sits far from the code; N(0, I) in the proposal reaches it."""
    prior = EnergyPrior(Energy(constant_draws=100_000), 2, Quadratic(), PointMass(torch.tensor([2.0, 2.0])))
    exact = math.log(2 * math.pi) + TARGET.covariance_matrix.logdet().item() / 2
    found = prior.estimate()
    assert abs(found.value - exact) < 4 * found.standard_error


@pytest.mark.parametrize("draws", ["sir", "langevin", "sampler"])
def test_draws_are_of_the_density_or_of_the_sampler(draws: str) -> None:
    settings = {"proposals": 100 if draws == "sir" else 2, "steps": 60, "step_size": 0.5}
    z = quadratic(draws=draws, **settings)().sample(Size((6000,)))
    of = MultivariateNormal(torch.zeros(2), torch.eye(2)) if draws == "sampler" else TARGET
    assert torch.allclose(z.mean(0), of.mean, atol=0.06)
    assert torch.allclose(z.T.cov(), of.covariance_matrix, atol=0.08)
    assert len(z.unique(dim=0)) > 0.99 * len(z)


def test_each_player_has_only_its_own_gradient() -> None:
    prior = Energy(energy=MLP((8,)), sampler=IAF(1, (8,))).build(2)
    codes = torch.randn(64, 2)
    torch.manual_seed(1)
    prior.objective(codes).backward()
    torch.manual_seed(1)
    z, log_g = PyroFlow(prior.sampler()).rsample_and_log_prob((64,))
    energy = list(prior.energy.parameters())
    of_energy = torch.autograd.grad((prior.energy(codes) - prior.energy(z.detach())).mean(), energy)
    sampler = list(prior.sampler.parameters())
    of_sampler = torch.autograd.grad((log_g - prior.log_unnormalized(z)).mean(), sampler)
    for parameter, gradient in zip([*energy, *sampler], [*of_energy, *of_sampler], strict=True):
        assert parameter.grad is not None
        assert torch.allclose(parameter.grad, gradient, atol=1e-6)


def test_a_lipschitz_energy_gives_the_wasserstein_distance_of_two_point_masses() -> None:
    """W₁(δ_a, δ_b) = ‖a − b‖, the dual over 1-Lipschitz functions."""
    a, b = torch.tensor([1.0, -0.5]), torch.tensor([-0.5, 1.5])
    spec = Energy(energy=Lipschitz((16, 16)))
    prior = EnergyPrior(spec, 2, spec.energy.build(Size((2,)), Size((1,))), PointMass(b))
    optimizer = torch.optim.Adam(prior.energy.parameters(), 0.02)
    codes = a.repeat(4, 1)
    for _ in range(120):
        optimizer.zero_grad()
        prior.objective(codes).backward()
        optimizer.step()
    distance = (prior.energy(b[None]) - prior.energy(a[None])).item()
    assert distance == pytest.approx((a - b).norm().item(), rel=0.02)


def test_both_players_fit_two_modes_whose_density_integrates_to_one() -> None:
    prior = Energy(energy=Lipschitz((16, 16), bound=4.0), sampler=IAF(2, (16,)), constant_draws=20_000).build(2)
    optimizer = torch.optim.Adam(prior.parameters(), 5e-3)

    def codes(n: int) -> Tensor:
        sign = torch.randint(2, (n, 1)) * 2.0 - 1
        return sign * torch.tensor([1.0, 0.5]) + 0.35 * torch.randn(n, 2)

    held_out = codes(4000)
    before = prior.validate(held_out).item()
    for _ in range(250):
        optimizer.zero_grad()
        prior.objective(codes(128)).backward()
        optimizer.step()
    after = prior.validate(held_out).item()
    assert after < before - 0.2
    side = torch.linspace(-6, 6, 241)
    mass = prior().log_prob(torch.cartesian_prod(side, side)).exp().sum().item() * 0.05**2
    error = prior.facts()["log_z_standard_error"]
    assert math.log(mass) == pytest.approx(0.0, abs=4 * error + 2e-3)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sampler": NAF()}, ["Energy.sampler", "NAF"]),
        ({"sampler": Mixture()}, ["Energy.sampler", "Mixture"]),
        ({"energy": "mlp"}, ["Energy.energy", "mlp"]),
        ({"draws": "mcmc"}, ["Energy.draws", "langevin"]),
        ({"step_size": 0}, ["step_size = 0"]),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, object], words: list[str]) -> None:
    with pytest.raises(FlowvaeError) as refused:
        Energy(**settings)  # type: ignore[arg-type]
    assert all(word in str(refused.value) for word in words)
