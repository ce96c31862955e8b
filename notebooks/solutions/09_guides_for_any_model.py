"""Solutions to the exercises of `09_guides_for_any_model.ipynb`."""

import math

import pyro
import pyro.distributions as dist
import torch


def log_evidence(log_weight):
    """Exercise 1. log (1/S) Σ exp(log w), with the largest weight taken out before exp."""
    return log_weight.logsumexp(0) - math.log(len(log_weight))


# Exercise 2. D − 1 = 49 numbers x: ½ log(1 + 49/2) nats, and s² = 1 / (1 + 49/2).
answer_2 = (0.5 * math.log(1 + 49 / 2), (1 + 49 / 2) ** -0.5)


def answer_3():
    """Exercise 3. e^v is a variance; x has the standard deviation e^(v/2)."""
    v = pyro.sample("v", dist.Normal(0.0, 3.0))
    raw = pyro.sample("x_raw", dist.Normal(torch.zeros(4), 1.0).to_event(1))
    return pyro.deterministic("x", (v / 2).exp() * raw, event_dim=1)
