"""The exercises of notebook 9: each check refuses its slips with the reason."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch

Solved = Callable[[str], dict[str, Any]]


def funnel(scale_of: Callable[[torch.Tensor], torch.Tensor], sd: float = 3.0, event: int = 1) -> Callable[[], None]:
    def model() -> None:
        v = pyro.sample("v", dist.Normal(0.0, sd))
        raw = pyro.sample("x_raw", dist.Normal(torch.zeros(4), 1.0).to_event(event))
        pyro.deterministic("x", scale_of(v) * raw, event_dim=1)

    return model


def centred() -> None:
    v = pyro.sample("v", dist.Normal(0.0, 3.0))
    pyro.sample("x", dist.Normal(torch.zeros(4), (v / 2).exp()).to_event(1))


def test_slips_are_named(solved: Solved) -> None:
    names = solved("09_guides_for_any_model")
    nats, sd = names["answer_2"]
    slips: list[tuple[str, Any, str]] = [
        ("check_1", lambda log_weight: log_weight.mean().double(), "mean of the logarithms, the ELBO"),
        ("check_1", lambda log_weight: log_weight.logsumexp(0), "subtract log S"),
        ("check_1", lambda log_weight: log_weight.exp().mean(), "its logarithm is asked for"),
        ("check_1", lambda log_weight: log_weight.exp().mean().log(), "use logsumexp"),
        ("check_2", (2 * nats, sd), "factor ½ is missing"),
        ("check_2", (0.5 * math.log(1 + 50 / 2), sd), "D − 1 numbers"),
        ("check_2", (nats, sd**2), "this is the variance"),
        ("check_2", nats, "two numbers are asked for"),
        ("check_3", funnel(torch.exp), "not its standard deviation"),
        ("check_3", funnel(lambda v: (2 * v).exp()), "not x_raw times"),
        ("check_3", funnel(lambda v: (v / 2).exp(), sd=9.0), "at the test point"),
        ("check_3", funnel(lambda v: (v / 2).exp(), event=0), "one draw with to_event"),
        ("check_3", centred, "no site 'x_raw'"),
    ]
    for check, slip, reason in slips:
        with pytest.raises(ValueError, match=reason):
            names[check](slip)
