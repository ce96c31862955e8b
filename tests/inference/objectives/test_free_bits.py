"""Free bits against the formula by hand, the ELBO, and the gradient of the reconstruction alone."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from objective_cases import VECTORIZED, case, gradients, loss_and_gradients, seeded_noise
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import Tensor, nn
from torch.distributions import Normal

from flowvae import FlowvaeError
from flowvae.flows import RealNVP
from flowvae.flows.pyro_adapter import to_pyro
from flowvae.inference import FreeBitsTraceELBO

pytestmark = pytest.mark.usefixtures("float64")


def terms(draws: int, shift: float = 0.2) -> tuple[Any, ...]:
    """Model, guide, data, reconstruction (K, N) and log q − log p of each dimension, (K, N, D)."""
    model, guide, x = case(6, shift=shift)
    with torch.no_grad():
        guide.loc += torch.randn(6, 2)
    q = Normal(guide.loc, guide.log_scale.exp())
    z = q.mean + q.stddev * seeded_noise(draws, x)
    reconstruction = Normal(z @ model.weight.T + model.center, model.log_scale.exp()).log_prob(x).sum(-1)
    return model, guide, x, reconstruction, q.log_prob(z) - Normal(0.0, 1.0).log_prob(z)


@pytest.mark.parametrize("draws", [1, 3])
@pytest.mark.parametrize("compile", ["none", "capture"])
def test_the_floor_acts_on_the_mean_of_each_dimension(draws: int, compile: str) -> None:  # noqa: A002
    model, guide, x, reconstruction, kl = terms(draws)
    means = kl.mean((0, 1))
    floor = means.mean().item()  # between those of the two dimensions
    hand = -reconstruction.mean(0).sum() + 6 * means.clamp(min=floor).sum()
    elbo = FreeBitsTraceELBO(nats=floor, num_particles=draws, compile=compile, **VECTORIZED)
    expected = gradients(hand, model, guide)
    for _ in range(3):
        loss, found = loss_and_gradients(elbo, model, guide, x)
        assert loss == pytest.approx(hand.item())
        torch.testing.assert_close(found, expected)
    torch.manual_seed(5)
    assert elbo.loss(poutine.scale(model, 0.5), poutine.scale(guide, 0.5), x) == pytest.approx(hand.item() / 2)


def test_no_floor_is_the_elbo_and_a_high_one_leaves_the_reconstruction() -> None:
    model, guide, x, reconstruction, _ = terms(2)
    how: dict[str, Any] = {"num_particles": 2, **VECTORIZED}
    none, elbo = (
        loss_and_gradients(make, model, guide, x) for make in (FreeBitsTraceELBO(nats=0, **how), Trace_ELBO(**how))
    )
    assert none[0] == elbo[0]
    assert torch.equal(none[1], elbo[1])
    loss, found = loss_and_gradients(FreeBitsTraceELBO(nats=1e3, **how), model, guide, x)
    hand = -reconstruction.mean(0).sum()
    assert loss == pytest.approx(hand.item() + 6 * 2 * 1e3)
    torch.testing.assert_close(found, gradients(hand, model, guide))


def test_a_flow_prior_has_one_floor_for_the_whole_code() -> None:
    flow = RealNVP(1, (4,)).build(2)
    drawn: list[Tensor] = []
    terms: list[Tensor] = []

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", to_pyro(flow()))
            drawn.append(z)
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.4 * x, 0.5).to_event(1))
            terms.append(Normal(0.4 * x, 0.5).log_prob(z).sum(-1))

    x = torch.randn(5, 2)
    loss = FreeBitsTraceELBO(nats=3.0, max_plate_nesting=1).loss(model, guide, x)
    z = drawn[-1]
    kl = (terms[-1] - flow().log_prob(z)).mean().item()
    assert kl < 3.0
    assert loss == pytest.approx(-Normal(z, 1.0).log_prob(x).sum().item() + 5 * 3.0)


def test_a_mask_and_unequal_scales_weight_the_mean() -> None:
    model, guide, x, reconstruction, kl = terms(1)
    weights = torch.tensor([1.0, 2.0, 0.5, 1.0, 1.0, 3.0])
    elbo = FreeBitsTraceELBO(nats=0.8, **VECTORIZED)
    for weight, handler in (
        (weights, lambda part: poutine.scale(part, weights)),
        ((weights > 0.9).double(), lambda part: poutine.mask(part, weights > 0.9)),
    ):
        means = (weight[:, None] * kl[0]).sum(0) / weight.sum()
        hand = -(weight * reconstruction[0]).sum() + weight.sum() * means.clamp(min=0.8).sum()
        torch.manual_seed(5)
        assert elbo.loss(handler(model), handler(guide), x) == pytest.approx(hand.item())


class Plates(nn.Module):
    """A site of N × 2 scalars in two plates."""

    def forward(self, x: Tensor, weight: float = 1.0) -> Tensor:
        with pyro.plate("data", len(x), dim=-2), pyro.plate("sides", 2, dim=-1):
            return pyro.sample("z", dist.Normal(0.0, 1.0))


def test_what_has_no_mean_over_one_plate_is_refused() -> None:
    elbo = FreeBitsTraceELBO()
    with pytest.raises(FlowvaeError, match=r"'z'.*data.*sides|'z'.*sides.*data"):
        elbo.loss(Plates(), Plates(), torch.zeros(3))
    model, guide, x, *_ = terms(1)
    with pytest.raises(FlowvaeError, match=r"0\.5.*'z'"):
        elbo.loss(poutine.scale(model, 0.5), guide, x)
    with pytest.raises(FlowvaeError, match=r"nats = -1"):
        FreeBitsTraceELBO(nats=-1)
