"""Masked sites, and the models that masks leave without a posterior."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

from flowvae import FlowvaeError
from flowvae.evaluation import importance_sample
from flowvae.flows import IAF
from flowvae.guides import AutoFlow
from flowvae.guides.automatic.masks import check_sites, counted, counted_data
from flowvae.inference import GuideSettings, fit_autoguide

pytestmark = pytest.mark.filterwarnings("ignore::flowvae.evaluation.NoisyParetoKWarning")
FLOW = IAF(transforms=1, hidden_features=(8,))
FEW = GuideSettings(steps=2, particles=4, units=0)
Y = torch.tensor([1.2, -0.3, 2.1, 0.4])
KEPT = torch.tensor([True, False, True, False])


@pytest.mark.parametrize(
    ("fn", "mask", "expected"),
    [
        (dist.Normal(torch.zeros(2, 3), 1.0), None, [[1, 1, 1], [1, 1, 1]]),
        (dist.Normal(torch.zeros(2, 3), 1.0), False, [[0, 0, 0], [0, 0, 0]]),
        (dist.Normal(torch.zeros(2, 3), 1.0), torch.tensor([[True], [False]]), [[1, 1, 1], [0, 0, 0]]),
        (dist.Normal(torch.zeros(2, 3), 1.0).to_event(1), torch.tensor([True, False]), [[1, 1, 1], [0, 0, 0]]),
        (dist.Normal(torch.zeros(2, 3), 1.0).mask(torch.tensor([True, True, False])), None, [[1, 1, 0], [1, 1, 0]]),
        (
            dist.Normal(torch.zeros(2, 3), 1.0).mask(torch.tensor([True, True, False])).to_event(1),
            torch.tensor([True, False]),
            [[1, 1, 0], [0, 0, 0]],
        ),
        (dist.Dirichlet(torch.ones(2, 3)).mask(torch.tensor([False, True])).to_event(1), None, [[0, 0, 0], [1, 1, 1]]),
    ],
)
def test_numbers_that_count(fn: dist.Distribution, mask: Any, expected: list[list[int]]) -> None:
    node = {"name": "a", "fn": fn, "mask": mask, "value": fn.sample()}
    assert counted(node).int().tolist() == expected
    data = torch.tensor(expected).bool().reshape(*fn.batch_shape, -1).any(-1)
    assert torch.equal(counted_data(node), data)


def center() -> Tensor:
    return pyro.sample("mu", dist.Normal(torch.zeros(2), 2.0).to_event(1))[..., 0]


def partly_observed(y: Tensor) -> None:
    mu = center()
    with pyro.plate("data", 4):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y, obs_mask=KEPT)


def ragged(y: Tensor) -> None:
    """Local latents with no data of their own."""
    center()
    with pyro.plate("data", 4), poutine.mask(mask=KEPT):
        local = pyro.sample("local", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(local, 1.0), obs=y)


def switched_off(y: Tensor) -> None:
    with poutine.mask(mask=False):
        ragged(y)


def missing(y: Tensor) -> None:
    mu = center()
    with pyro.plate("data", 4), poutine.mask(mask=KEPT):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (partly_observed, "'y_unobserved': 2 of its 4 .*poutine.mask"),
        (ragged, "'local': 2 of its 4"),
        (switched_off, "'mu': 2 of its 2"),
    ],
)
def test_latents_without_a_posterior_are_refused(model: Callable[[Tensor], None], words: str) -> None:
    """The loss would sink without a bound, by the entropy that the guide gives them."""
    with pytest.raises(FlowvaeError, match=words):
        AutoFlow(model, FLOW)(Y)
    for guide in (AutoFlow(model, FLOW), AutoNormal(model)):
        with pytest.raises(FlowvaeError, match=words):
            fit_autoguide(model, guide, FEW, (Y,), progress=False)
    pyro.clear_param_store()


def test_observed_nan() -> None:
    hidden = Y.where(KEPT, torch.nan)
    with pytest.raises(FlowvaeError, match=r"'y': 2 of its 4 .*gradients"):
        fit_autoguide(missing, AutoFlow(missing, FLOW), FEW, (hidden,), progress=False)
    with pytest.raises(FlowvaeError, match=r"'y': 4 of its 4 .*not masked"):
        fit_autoguide(missing, AutoFlow(missing, FLOW), FEW, (Y * torch.nan,), progress=False)


def test_missing_data_under_a_mask() -> None:
    """What the refusals recommend gives the evidence of the observed part."""
    guide = AutoFlow(missing, FLOW)
    settings = GuideSettings(steps=20, particles=16, units=20)
    fitted = fit_autoguide(missing, guide, settings, (Y.where(KEPT, 0.0),), progress=False)
    exact = dist.MultivariateNormal(torch.zeros(2), torch.eye(2) + 4.0).log_prob(Y[KEPT]).item()
    assert -fitted.losses[-20:].mean().item() == pytest.approx(exact, abs=0.1)
    result = importance_sample(missing, guide, Y.where(KEPT, torch.nan), draws=1000)
    assert abs(result.log_evidence.item() - exact) < max(4 * result.log_evidence_se.item(), 1e-3)


def test_models_are_read_at_the_draws_of_the_guide() -> None:
    """A prior's draws may be too extreme for the model to run at all."""

    def model() -> None:
        mu = pyro.sample("mu", dist.Normal(500.0, 1.0).expand([2]).to_event(1))
        if (mu > 400).any():
            raise RuntimeError("singular")
        pyro.sample("y", dist.Normal(mu, 1.0).to_event(1), obs=torch.zeros(2))

    def guide() -> None:
        pyro.sample("mu", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    check_sites(model, (), {}, guide, gradients=True)
    with pytest.raises(RuntimeError, match="singular"):
        check_sites(model, (), {})
