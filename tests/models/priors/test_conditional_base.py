"""The prior of VITS: exact where the flow is the identity, normalized for every condition, drawn as it is scored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import disturb
from torch import Tensor
from zuko.distributions import NormalizingFlow
from zuko.lazy import LazyDistribution

from flowvae import (
    MAF,
    NSF,
    Condition,
    ConditionalBase,
    Experiment,
    FlowvaeError,
    RealNVP,
    StandardNormal,
    Training,
    load,
    train,
)
from flowvae.evaluation.latent.base_space import from_base, to_base
from flowvae.flows import Planar
from flowvae.flows.image.glow import Glow
from flowvae.networks import MLP

pytestmark = pytest.mark.usefixtures("float64")


def test_with_the_identity_as_flow_it_is_a_conditional_gaussian() -> None:
    torch.manual_seed(0)
    prior = ConditionalBase(RealNVP(2)).build(3, 2)
    c, z = torch.randn(5, 2), torch.randn(7, 5, 3)
    assert torch.allclose(prior(c).log_prob(z), StandardNormal().build(3)().log_prob(z))  # where it starts
    randomized(prior.base, 0.5)
    loc, log_scale = (prior.base.bias + prior.base.network(c)).chunk(2, -1)
    expected = torch.distributions.Normal(loc, log_scale.exp()).log_prob(z).sum(-1)
    assert torch.allclose(prior(c).log_prob(z), expected)


@pytest.mark.parametrize("flow", [RealNVP(3), MAF(2), NSF(2, affine=True)], ids=lambda flow: flow.family)
@pytest.mark.parametrize("context", [0, 1])
def test_it_integrates_to_one_for_every_condition(flow: RealNVP, context: int) -> None:
    torch.manual_seed(1)
    prior = randomized(ConditionalBase(flow).build(2, context), 0.12)
    for c in [None] if context == 0 else [torch.tensor([-1.0]), torch.tensor([1.0])]:
        with torch.no_grad():
            reach = 1.2 * prior(c).sample((5000,)).abs().max() + 1
            side = torch.linspace(-reach, reach, 601)
            mass = prior(c).log_prob(torch.cartesian_prod(side, side)).exp().sum() * (side[1] - side[0]) ** 2
        assert mass == pytest.approx(1, abs=2e-3)


def test_draws_are_those_of_the_base_of_their_own_condition() -> None:
    torch.manual_seed(2)
    prior = randomized(ConditionalBase(RealNVP(3)).build(2, 1), 0.5)
    c = torch.tensor([[-2.0], [3.0]])
    p: NormalizingFlow = prior(c)
    with torch.no_grad():
        u = to_base(p, p.sample((4000,)))
        assert torch.allclose(from_base(p, u[:5]), from_base(p, to_base(p, from_base(p, u[:5]))))
    assert u.mean(0).abs().max() < 4 / 4000**0.5
    assert (u.std(0) - 1).abs().max() < 4 / 8000**0.5


def test_without_a_condition_its_base_is_learned() -> None:
    torch.manual_seed(3)
    prior = ConditionalBase(RealNVP(2)).build(2)
    optim = torch.optim.Adam(prior.base.parameters(), 0.05)
    z = torch.tensor([3.0, -1.0]) + torch.tensor([0.5, 2.0]) * torch.randn(2000, 2)
    for _ in range(400):
        optim.zero_grad()
        (-prior().log_prob(z).mean()).backward()
        optim.step()
    base = prior().base
    assert torch.allclose(base.base_dist.loc, z.mean(0), atol=1e-2)
    assert torch.allclose(base.base_dist.scale, z.std(0, unbiased=False), atol=1e-2)


def randomized(module: LazyDistribution, scale: float) -> LazyDistribution:
    disturb(module, scale)
    return module


def _score(prior: LazyDistribution, z: Tensor, c: Tensor | None) -> Tensor:
    found: Tensor = prior(c).log_prob(z)
    return found


@pytest.mark.parametrize("spec", [ConditionalBase(RealNVP(2)), MAF(2)], ids=["conditional-base", "maf"])
def test_given_a_constant_condition_it_can_be_every_unconditional_one(spec: ConditionalBase) -> None:
    """With weights of the condition that are 0, the conditional prior is the unconditional one."""
    torch.manual_seed(4)
    z = torch.randn(6, 3)
    prior = randomized(spec.build(3, 2), 0.3)
    one, other = torch.tensor([0.0, 0.0]).expand(6, 2), torch.tensor([1.0, -4.0]).expand(6, 2)
    assert not torch.allclose(_score(prior, z, one), _score(prior, z, other))
    constant = _score(prior, z, one)
    assert torch.allclose(torch.stack([_score(prior, row, one[0]) for row in z]), constant)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ConditionalBase(flow=StandardNormal()), "StandardNormal"),  # type: ignore[arg-type]
        (lambda: ConditionalBase(flow=Planar()), "Planar"),
        (lambda: ConditionalBase(flow=Glow()), "Glow"),
        (lambda: ConditionalBase(hidden_features=(0,)), "hidden_features"),
    ],
)
def test_what_cannot_be_its_flow_is_refused(make: Callable[[], object], said: str) -> None:
    with pytest.raises(FlowvaeError, match=said):
        make()


def test_it_is_trained_by_class_stored_and_resumed(tmp_path: Path) -> None:
    short = Training(epochs=2, device="cpu", checkpoint_seconds=0.0)
    experiment = Experiment(
        latent=2,
        encoder=MLP((8,)),
        decoder=MLP((8,)),
        prior=ConditionalBase(RealNVP(2, (8,))),
        condition=Condition(on="labels", decoder=False),
        inference=short,
    )
    how = {"draws": 5, "figures": False, "progress": False}
    long = train(replace(experiment, inference=replace(short, epochs=3)), tmp_path / "long", **how)
    train(experiment, tmp_path / "run", **how)
    run = train(replace(experiment, inference=replace(short, epochs=3)), tmp_path / "run", resume=True, **how)
    assert run.metric("nll").value == long.metric("nll").value
    opened = load(tmp_path / "run")
    assert opened.experiment.prior == experiment.prior
    assert opened.sample(4, c=[0, 1, 2, 3]).shape == (4, 1, 8, 8)
