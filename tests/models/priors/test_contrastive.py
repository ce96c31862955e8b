"""The noise contrastive prior: exact where the classifier is, with a constant whose error covers."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Size, Tensor, nn
from torch.distributions import MultivariateNormal, Normal

from flowvae import MAF, Experiment, FlowvaeError, LatentVariablePrior, SecondStage
from flowvae.core.errors import EstimatedDensityWarning
from flowvae.flows.spec import standard_normal
from flowvae.models import Contrastive, Energy, FlowMatching, Mixture
from flowvae.models.priors.contrastive import ContrastivePrior
from flowvae.networks import MLP

M = 0.8


class Quadratic(nn.Module):
    """log N(z; μ, Σ) − log N(z; 0, I)."""

    def __init__(self, target: MultivariateNormal) -> None:
        super().__init__()
        self.target = target

    def forward(self, z: Tensor) -> Tensor:
        return (self.target.log_prob(z) - Normal(0.0, 1.0).log_prob(z).sum(-1)).unsqueeze(-1)


def linear(draws: str = "langevin", **settings: float) -> ContrastivePrior:
    """The classifier of codes N(m, 1) against N(0, 1) at its optimum: log r = m z − m²/2."""
    classifier = nn.Linear(1, 1)
    nn.init.constant_(classifier.weight, M)
    nn.init.constant_(classifier.bias, -(M**2) / 2)
    return ContrastivePrior(Contrastive(draws=draws, **settings), 1, standard_normal(1), classifier)  # type: ignore[arg-type]


def test_a_linear_classifier_is_exact_for_two_means() -> None:
    prior = linear()
    found = prior.estimate()
    assert abs(found.value) < 4 * found.standard_error < 0.03  # Z = 1
    z = torch.linspace(-2, 3, 11)[:, None]
    truth = Normal(M, 1.0).log_prob(z).squeeze(-1)
    assert torch.allclose(prior().log_prob(z), truth, atol=4 * found.standard_error)


def test_this_classifier_minimizes_the_objective() -> None:
    prior = linear()
    codes = M + torch.randn(100_000, 1)
    loss = prior.objective(codes)
    slope, offset = torch.autograd.grad(loss, prior.classifier.parameters())
    assert abs(slope.item()) < 0.006
    assert abs(offset.item()) < 0.006


@pytest.mark.parametrize("draws", ["sir", "langevin"])
def test_draws_have_the_density_of_the_model(draws: str) -> None:
    target = MultivariateNormal(torch.tensor([0.7, -0.4]), torch.tensor([[0.5, 0.2], [0.2, 0.6]]))
    # with few proposals, resampling alone is wrong, and a chain corrects it
    settings = Contrastive(draws=draws, proposals=100 if draws == "sir" else 2, steps=60, step_size=0.5)
    prior = ContrastivePrior(settings, 2, standard_normal(2), Quadratic(target))
    z = prior().sample(Size((4, 1500)))
    assert z.shape == (4, 1500, 2)
    z = z.flatten(0, 1)
    assert torch.allclose(z.mean(0), target.mean, atol=0.04)
    assert torch.allclose(z.T.cov(), target.covariance_matrix, atol=0.05)
    assert len(z.unique(dim=0)) > 0.99 * len(z)


@pytest.mark.usefixtures("float64")
def test_a_quadratic_classifier_is_exact_for_two_covariances_and_its_density_integrates_to_one() -> None:
    target = MultivariateNormal(torch.tensor([0.7, -0.4]), torch.tensor([[0.5, 0.2], [0.2, 0.6]]))
    prior = ContrastivePrior(Contrastive(), 2, standard_normal(2), Quadratic(target))
    found = prior.estimate()
    side = torch.linspace(-6, 6, 241)
    grid = torch.cartesian_prod(side, side)
    mass = prior().log_prob(grid).exp().sum().item() * 0.05**2
    assert math.log(mass) == pytest.approx(0.0, abs=4 * found.standard_error)
    assert torch.allclose(prior().log_prob(grid), target.log_prob(grid), atol=4 * found.standard_error)


def test_an_arbitrary_classifier_gives_a_density_too() -> None:
    prior = Contrastive(classifier=MLP((16,)), constant_draws=100_000).build(2)
    with torch.no_grad():
        for parameter in prior.classifier.parameters():
            parameter.mul_(3)
    found = prior.estimate()
    assert abs(found.value) > 10 * found.standard_error
    side = torch.linspace(-7, 7, 281)
    mass = prior().log_prob(torch.cartesian_prod(side, side)).exp().sum().item() * 0.05**2
    assert math.log(mass) == pytest.approx(0.0, abs=4 * found.standard_error + 1e-3)


def test_base_and_classifier_have_no_gradient_from_the_loss_of_the_other() -> None:
    prior = Contrastive(base=MAF(1, (8,)), classifier=MLP((8,))).build(2)
    codes = torch.randn(64, 2)
    base = dict(prior.base.named_parameters())
    expected = torch.autograd.grad(-prior.base().log_prob(codes).mean(), list(base.values()))
    prior.objective(codes).backward()
    for parameter, gradient in zip(base.values(), expected, strict=True):
        assert parameter.grad is not None
        assert torch.allclose(parameter.grad, gradient)
    assert all(parameter.grad is not None for parameter in prior.classifier.parameters())


def test_a_fitted_base_makes_the_constant_easier() -> None:
    """Codes of a Gaussian far from N(0, I): a mixture as the base learns it, and the classifier stays near 1."""
    prior = Contrastive(base=Mixture(1), classifier=MLP((8,)), constant_draws=4096).build(2)
    optimizer = torch.optim.Adam(prior.parameters(), 0.06)
    for _ in range(150):
        optimizer.zero_grad()
        prior.objective(3 + 0.3 * torch.randn(128, 2)).backward()
        optimizer.step()
    codes = 3 + 0.3 * torch.randn(2000, 2)
    loss = prior.validate(codes).item()
    entropy = 2 * (math.log(0.3) + 0.5 * math.log(2 * math.pi * math.e))
    assert loss == pytest.approx(entropy, abs=0.15)
    assert prior.effective_draws > 2000


def test_a_constant_that_cannot_be_trusted_warns_and_is_never_the_best_epoch() -> None:
    prior = linear(constant_draws=120)
    prior.estimate()
    prior.eval()
    with pytest.warns(EstimatedDensityWarning, match=r"effective draws of 120"):
        prior()
    with pytest.warns(EstimatedDensityWarning, match="constant_draws = 120"):
        assert prior.validate(torch.zeros(5, 1)).item() == math.inf


def test_the_constant_that_is_kept_is_not_the_one_that_chose_the_epoch() -> None:
    prior = linear()
    codes = M + torch.randn(50, 1)
    loss = prior.validate(codes).item()
    chosen = loss + prior.log_unnormalized(codes).mean().item()  # the first estimate of log Z
    kept = prior.log_z.item()
    assert 1e-5 < abs(chosen - kept) < 6 * prior.facts()["log_z_standard_error"]


def test_draws_from_few_effective_proposals_warn() -> None:
    prior = linear(draws="sir", proposals=10)
    prior.estimate()  # a share of exp(−m²) is effective
    with pytest.warns(EstimatedDensityWarning, match=r"5\.\d effective of 10 proposals"):
        prior().sample()
    enough = linear(draws="sir", proposals=100)
    enough.estimate()
    enough().sample()


def test_its_density_is_refused_before_its_constant_is_known() -> None:
    prior = Contrastive().build(3)
    with pytest.raises(FlowvaeError, match=r"contrastive.*estimate"):
        prior().log_prob(torch.zeros(3))
    assert prior().sample(Size((2,))).shape == (2, 3)


def test_the_constant_is_part_of_the_state() -> None:
    prior = linear()
    prior.estimate()
    other = linear()
    other.load_state_dict(prior.state_dict())
    z = torch.randn(5, 1)
    assert torch.equal(other().log_prob(z), prior().log_prob(z))
    assert other.facts() == pytest.approx(prior.facts())
    assert torch.equal(copy.deepcopy(prior)().log_prob(z), prior().log_prob(z))
    assert prior.facts()["log_z_draws"] == 32768


def test_the_protocol_says_how_it_draws_and_how_exact_its_base_is() -> None:
    prior = Contrastive(base=FlowMatching((8, 8)), draws="langevin", constant_draws=1000).build(2)
    assert prior.facts().keys() == {"base_ode_tolerance", "base_ode_error", "draws"}
    assert 0 < prior.facts()["base_ode_error"] < 0.1
    assert prior.facts()["draws"] == "langevin"


def test_its_density_has_a_gradient_and_a_batch_shape() -> None:
    prior = Contrastive(classifier=MLP((8,))).build(2)
    prior.estimate()
    z = torch.randn(3, 4, 2, requires_grad=True)
    distribution = prior().expand(Size((4,)))
    assert distribution.sample(Size((3,))).shape == (3, 4, 2)
    assert distribution.log_prob(z).shape == (3, 4)
    (gradient,) = torch.autograd.grad(distribution.log_prob(z).sum(), z)
    assert gradient.isfinite().all()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Experiment(prior=Contrastive()), ["Contrastive", "fit-prior"]),
        (lambda: Experiment(prior=Energy()), ["Energy", "fit-prior"]),
        (lambda: SecondStage(Contrastive(), fine_tune=True), ["fine_tune", "Contrastive"]),
        (lambda: Contrastive(base=LatentVariablePrior()), ["Contrastive.base", "LatentVariablePrior"]),
        (lambda: Contrastive(base=Contrastive()), ["Contrastive.base"]),
        (lambda: LatentVariablePrior(prior=Energy()), ["LatentVariablePrior.prior", "Energy"]),
        (lambda: Contrastive(draws="sampler"), ["Contrastive.draws", "sir"]),
        (lambda: Contrastive(proposals=0), ["proposals = 0"]),
        (lambda: Contrastive(classifier=3), ["Contrastive.classifier = 3"]),
    ],
)
def test_what_cannot_be_is_refused(make: object, words: list[str]) -> None:
    with pytest.raises(FlowvaeError) as refused:
        make()  # type: ignore[operator]
    assert all(word in str(refused.value) for word in words)
