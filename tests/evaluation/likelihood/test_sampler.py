"""Draws in blocks: the draws of the guide, and the densities of all draws at once."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from linear_pairs import Conditional, TwoLevels
from pyro import poutine
from torch import Tensor

from flowvae import FlowvaeError
from flowvae.data import Batch
from flowvae.evaluation.likelihood import sampler
from flowvae.evaluation.likelihood.sampler import Sampler, draws_at_once, joined
from flowvae.inference.compile import replay
from flowvae.inference.log_density import draw_latents, log_densities
from flowvae.models import BinomialLikelihood

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture(autouse=True)
def _captured_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "CALLS", 1)


@pytest.mark.parametrize("compile", ["capture", "none"])
@pytest.mark.parametrize("values", [1, 5 * 4 * 256, 10**6], ids=["one draw", "five draws", "all"])
def test_blocks_are_the_whole(monkeypatch: pytest.MonkeyPatch, values: int, compile: str) -> None:  # noqa: A002
    monkeypatch.setattr(sampler, "VALUES", values)
    pair = TwoLevels(shift=0.3, factor=1.2)
    batch = Batch(pair.data(4))
    drawn = Sampler(pair.model, pair.guide, compile)
    for seed in range(4):  # its own call, capture, replay
        torch.manual_seed(seed)
        found = drawn(batch, 13)
        torch.manual_seed(seed)
        latents, log_guide = draw_latents(pair.guide, batch, 13)
        of_model = log_densities(pair.model, batch, latents)
        torch.testing.assert_close(found.latents, latents)
        torch.testing.assert_close(found.log_guide, log_guide)
        torch.testing.assert_close(found.log_likelihood, of_model.observed)
        torch.testing.assert_close(found.log_prior, of_model.latent)
    with pytest.raises(FlowvaeError, match=r"below, top"):
        found.code  # noqa: B018


def test_the_exact_posterior_has_weights_without_variance_in_every_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler, "VALUES", 4 * 4 * 256)
    pair = Conditional()
    c = torch.eye(3)[[0, 1, 2, 0]]
    x = pair.model(c=c, size=4)
    drawn = Sampler(pair.model, pair.guide)
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [1, 1, 2, 2]):  # the programs follow data and conditions
        batch = Batch(x[order], c[order])
        expected = pair.log_evidence(*batch.args).expand(11, 4)
        torch.testing.assert_close(drawn(batch, 11).log_weight, expected, rtol=1e-10, atol=1e-10)
    assert drawn._scored.programs  # type: ignore[attr-defined]


@pytest.mark.parametrize("draws", [1, 7, 250, 1000])
@pytest.mark.parametrize("shape", [(64, 784), (64, 8), (3, 1, 32, 32), (2, 10**6)], ids=str)
def test_equal_parts_that_are_small_enough(draws: int, shape: tuple[int, ...]) -> None:
    batch = Batch(torch.zeros(1).expand(shape))
    step = draws_at_once(batch, draws)
    assert 1 <= step <= draws
    values = len(batch) * max(batch.args[0][0].numel(), sampler.LEAST_FEATURES)
    assert step == 1 or step * values <= sampler.VALUES
    parts = -(-draws // step)
    assert parts * step - draws < parts  # no part is smaller by more than what is left of an even division


def test_coefficients_are_those_of_each_data_point() -> None:
    """They are computed once per data point: a mask, a scaled site and data of another object are scored as usual."""
    spec, shape = BinomialLikelihood(9), torch.Size((5,))
    likelihood = spec.build(shape, spec.units(torch.zeros(1, 5)))
    w = torch.randn(2, 5)
    x = torch.randint(0, 10, (4, 5)).to(torch.get_default_dtype())
    mask = torch.tensor([True, False, True, True])

    def model(x: Tensor, how: str = "plain") -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            with poutine.mask(mask=mask.repeat(len(x) // 4) if how == "masked" else torch.tensor(True)):
                pyro.sample("x", likelihood(z @ w), obs=x + 0 if how == "copied" else x)

    z = torch.randn(6, 4, 2)
    expected = dist.Binomial(9, logits=z @ w).log_prob(x).sum(-1)
    for how in ("plain", "copied", "masked"):
        found = log_densities(lambda x, how=how: model(x, how), x, z).observed
        torch.testing.assert_close(found, expected * mask if how == "masked" else expected)


def test_joined_draws_are_in_order() -> None:
    pair = TwoLevels()
    batch = Batch(pair.data(3))
    parts = [Sampler(pair.model, pair.guide)(batch, draws) for draws in (2, 3)]
    found = joined(parts)
    assert torch.equal(found.latents["top"][2:], parts[1].latents["top"])
    assert torch.equal(found.log_weight, torch.cat([part.log_weight for part in parts]))
