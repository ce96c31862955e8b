"""The exercises of notebook 9 recognize common slips."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from flowvae.course.any_model import evidence, gap, gap_of_a_funnel, local, local_posterior, noncentred
from flowvae.course.exercise import Exercise
from flowvae.models import Funnel

NATS, SD = gap_of_a_funnel()


def funnel(scale_of: Callable[[Tensor], Tensor], sd: float = 3.0, event: int = 1) -> Callable[[], None]:
    def model() -> None:
        v = pyro.sample("v", dist.Normal(0.0, sd))
        raw = pyro.sample("x_raw", dist.Normal(torch.zeros(4), 1.0).to_event(event))
        pyro.deterministic("x", scale_of(v) * raw, event_dim=1)

    return model


def centred() -> None:
    v = pyro.sample("v", dist.Normal(0.0, 3.0))
    pyro.sample("x", dist.Normal(torch.zeros(4), (v / 2).exp()).to_event(1))


def with_mean(mean: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Any]:
    return lambda y, mu: (mean(y, mu), local_posterior(y, mu)[1])


def with_sd(sd: Callable[[Tensor], Any]) -> Callable[[Tensor, Tensor], Any]:
    return lambda y, mu: (local_posterior(y, mu)[0], sd(local_posterior(y, mu)[1]))


@pytest.mark.parametrize(
    ("task", "slip", "reason"),
    [
        (evidence, lambda w: w.mean(), "the ELBO"),
        (evidence, lambda w: w.logsumexp(0), "subtract log S"),
        (evidence, lambda w: w.exp().mean(), "its logarithm is asked for"),
        (evidence, lambda w: w.exp().mean().log(), "use logsumexp"),
        (evidence, lambda w: w, "one number"),
        (gap, (2 * NATS, SD), "factor ½"),
        (gap, (0.5 * math.log(1 + 50 / 2), SD), "D − 1 numbers"),
        (gap, (17.0, SD), "insert"),
        (gap, (NATS, SD**2), "the variance"),
        (gap, (NATS, 1.0), "(D − 1)/2"),
        (gap, NATS, "two numbers"),
        (noncentred, funnel(torch.exp), "not its standard deviation"),
        (noncentred, funnel(lambda v: (2 * v).exp()), "not x_raw times"),
        (noncentred, funnel(lambda v: (v / 2).exp(), sd=9.0), "at the test point"),
        (noncentred, funnel(lambda v: (v / 2).exp(), event=0), "one draw with to_event"),
        (noncentred, centred, "no site 'x_raw'"),
        (local, with_mean(lambda y, mu: (0.49 * mu + y) / 1.49), "exchanged"),
        (local, with_mean(lambda y, mu: y), "pulls it"),
        (local, with_mean(lambda y, mu: (y + mu) / 2), "the middle"),
        (local, with_mean(lambda y, mu: (mu / 0.7 + y) / (1 / 0.7 + 1)), "not by 1/standard deviation"),
        (local, with_mean(lambda y, mu: y / (1 / 0.49 + 1)), "μ is missing"),
        (local, with_sd(lambda sd: sd.square()), "the variance"),
        (local, with_sd(lambda sd: sd**-2), "the precision"),
        (local, with_sd(lambda sd: math.sqrt(1.49)), "variances do not"),
        (local, lambda y, mu: y, "two things"),
    ],
)
def test_slips_are_named(task: Exercise, slip: Any, reason: str) -> None:
    outcome = task.check(slip)
    assert outcome.kind == "wrong", outcome
    assert reason in outcome.text


def test_the_closed_forms_agree_with_the_funnel_and_with_bayes_rule() -> None:
    wide = Funnel(50, 1.0)
    assert pytest.approx((wide.mean_field_gap(), wide.mean_field()[0])) == (NATS, SD)
    y, mu = torch.tensor([1.4]), torch.tensor([-0.3])
    mean, sd = local_posterior(y, mu)
    theta = torch.linspace(-2, 2, 9)
    joint = Normal(mu, 0.7).log_prob(theta) + Normal(theta, 1.0).log_prob(y)
    constant = joint - Normal(mean, sd).log_prob(theta)
    torch.testing.assert_close(constant, Normal(mu, math.sqrt(1.49)).log_prob(y).expand(9))
