"""A zuko distribution behind the bridge does what Pyro's own distributions do."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from helpers import disturb
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from pyro.optim import Adam
from torch import Tensor

from flowvae.core.seeds import seeded
from flowvae.flows import IAF, MAF, PyroFlow, to_pyro
from flowvae.models import Mixture, MixtureFlow


def flow(features: int = 3, family: MAF | IAF | None = None) -> PyroFlow:
    """The same flow at every call."""
    with seeded(0):
        return _flow(features, family)


def _flow(features: int, family: MAF | IAF | None) -> PyroFlow:
    lazy = (family or MAF(hidden_features=(16,))).build(features)
    disturb(lazy, 0.2)
    wrapped = to_pyro(lazy())
    assert isinstance(wrapped, PyroFlow)
    return wrapped


def test_log_prob_is_that_of_zuko() -> None:
    wrapped = flow()
    z = torch.randn(5, 3)
    torch.testing.assert_close(wrapped.log_prob(z), wrapped.flow.log_prob(z))


def test_a_draw_is_not_scored_twice() -> None:
    wrapped = flow(family=IAF(hidden_features=(16,)))
    value, log_prob = wrapped.rsample_and_log_prob((4,))
    assert wrapped.log_prob(value) is log_prob
    torch.testing.assert_close(wrapped.flow.log_prob(value), log_prob, rtol=1e-4, atol=1e-4)


def test_a_draw_without_gradient_is_scored_with_one() -> None:
    wrapped = flow()
    value = wrapped.sample((4,))
    assert not value.requires_grad
    assert wrapped.log_prob(value).requires_grad


def test_a_changed_draw_is_scored_anew() -> None:
    wrapped = flow()
    with torch.no_grad():
        value = wrapped.sample((4,))
        before = wrapped.log_prob(value).clone()
        value += 1
        after = wrapped.log_prob(value)
    assert not torch.equal(before, after)
    torch.testing.assert_close(after, wrapped.flow.log_prob(value))


def test_the_cache_does_not_grow() -> None:
    wrapped = flow()
    draws = [weakref.ref(wrapped.rsample((4,))) for _ in range(3)]
    gc.collect()
    # the last one may live on in the graph of its log-density, as long as the distribution does
    assert [draw() for draw in draws[:2]] == [None, None]
    del wrapped
    gc.collect()
    assert draws[2]() is None


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_distribution_that_has_drawn_can_be_copied(copied: Callable[[Any], Any]) -> None:
    """The copy scores anew; the draw stays with the one that made it."""
    wrapped = flow(family=IAF(hidden_features=(16,)))
    value, log_prob = wrapped.rsample_and_log_prob((4,))
    other = copied(wrapped)
    assert wrapped.log_prob(value) is log_prob
    scored = other.log_prob(value)
    assert scored is not log_prob
    torch.testing.assert_close(scored, log_prob, rtol=1e-4, atol=1e-4)


def test_mask_expand_and_to_event() -> None:
    wrapped = flow()
    z = torch.randn(2, 5, 3)
    expanded = wrapped.expand((2, 5))
    assert expanded.batch_shape == (2, 5)
    assert expanded.rsample().shape == (2, 5, 3)
    torch.testing.assert_close(expanded.log_prob(z), wrapped.log_prob(z))
    event = expanded.to_event(1)
    assert event.event_shape == (5, 3)
    torch.testing.assert_close(event.log_prob(z), wrapped.log_prob(z).sum(-1))
    keep = torch.tensor([True, False, True, False, True])
    torch.testing.assert_close(expanded.mask(keep).log_prob(z), wrapped.log_prob(z) * keep)


def test_nan_is_refused_where_validation_is_on() -> None:
    with pytest.raises(ValueError, match="value"):
        flow().log_prob(torch.full((3,), torch.nan))


def test_a_mixture_draws_without_gradient() -> None:
    mixture = to_pyro(Mixture(components=3).build(2)())
    assert not mixture.has_rsample
    assert mixture.expand((4,)).sample((2,)).shape == (2, 4, 2)
    assert mixture().shape == (2,)


def model(observed: Tensor | None = None) -> Tensor:
    """A flow prior over a mean, and data around it."""
    prior = flow(2)
    z = pyro.sample("z", prior)
    return pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=observed)


def test_predictive_draws_from_a_flow_prior() -> None:
    samples = Predictive(model, num_samples=7)()
    assert samples["z"].shape == (7, 2)
    assert samples["x"].shape == (7, 2)


@pytest.mark.parametrize("autoguide", [AutoNormal, AutoMultivariateNormal])
def test_autoguides_fit_a_flow_prior(autoguide: type) -> None:
    observed = torch.tensor([1.0, -1.0])
    guide = autoguide(model)
    svi = SVI(model, guide, Adam({"lr": 0.05}), Trace_ELBO())
    losses = [svi.step(observed) for _ in range(300)]
    assert sum(losses[-50:]) < sum(losses[:50])
    pyro.clear_param_store()


def test_nuts_finds_the_mean_that_a_grid_gives() -> None:
    observed = torch.tensor([1.0, -1.0])
    mcmc = MCMC(NUTS(model), num_samples=300, warmup_steps=100, disable_progbar=True)
    mcmc.run(observed)
    side = torch.linspace(-5, 5, 401)
    grid = torch.cartesian_prod(side, side)
    log_joint = flow(2).log_prob(grid) + dist.Normal(grid, 0.5).to_event(1).log_prob(observed)
    weight = log_joint.softmax(0).detach()
    mean = (weight[:, None] * grid).sum(0)
    sd = (weight[:, None] * (grid - mean) ** 2).sum(0).sqrt()
    error = (mcmc.get_samples()["z"].mean(0) - mean) / sd
    assert error.abs().max() < 0.25


def test_inference_mode_draws_and_scores() -> None:
    wrapped = flow(family=IAF(hidden_features=(16,)))
    with torch.inference_mode():
        value = wrapped.sample((4,))
        torch.testing.assert_close(wrapped.log_prob(value), wrapped.flow.log_prob(value))


def test_a_flow_over_draws_without_a_gradient_has_none() -> None:
    over = MixtureFlow(MAF(1, (8,)), Mixture(2)).build(2)
    assert not to_pyro(over()).has_rsample
    assert not to_pyro(over()).expand(torch.Size((3,))).has_rsample
    assert to_pyro(MAF(1, (8,)).build(2)()).has_rsample
    with seeded(1):
        drawn = to_pyro(over()).sample((5,))
    with seeded(1):
        assert torch.equal(over().sample(torch.Size((5,))), drawn)
