"""Exercises of notebook 9: flow guides for any model."""

from __future__ import annotations

import math
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from flowvae.course.exercise import Unanswered, Wrong, answered, exercise
from flowvae.course.judging import look_for_slips, tensor_of
from flowvae.models import Funnel

DIMENSION, SCALE = 50, 1.0
PRIOR_SD, NOISE_SD = 0.7, 1.0  # of the local means, and of the data around them


def log_evidence(log_weight: Tensor) -> Tensor:
    """The logarithm of (1/S) Σ exp(log w); logsumexp takes the largest weight out before it exponentiates."""
    return log_weight.logsumexp(0) - math.log(len(log_weight))


@exercise(
    log_evidence,
    hints=(
        "The evidence is the mean of the weights; the exercise asks for its logarithm.",
        "exp(−1000) is 0 in a computer; torch.logsumexp avoids that.",
    ),
)
def evidence(answer: Callable[[Tensor], Tensor]) -> str:
    """Judges an estimate of the log-evidence from log-weights (S,)."""
    weights = torch.tensor([-1.0, -2.0, -0.5, -4.0])
    found = tensor_of(answer(weights), (), "one number")
    slips = {
        "this is the mean of the logarithms, the ELBO, which is smaller.": weights.mean(),
        "this is the sum; divide by S, that is, subtract log S.": weights.logsumexp(0),
        "this is the evidence; its logarithm is asked for.": weights.exp().mean(),
        "the sum is divided by S inside the logarithm: outside, subtract log S.": weights.logsumexp(0) / len(weights),
    }
    look_for_slips(found, log_evidence(weights), slips, unit="nats")
    try:
        far = torch.as_tensor(answer(weights - 1000)).double()
    except ValueError:  # math.log(0)
        far = torch.tensor(-math.inf, dtype=torch.float64)
    if not torch.isclose(far, log_evidence(weights).double() - 1000, atol=1e-3):
        raise Wrong("right for these weights, but exp(−1000) is zero in floating point: use logsumexp.")
    return "Whatever the guide, this number estimates the same evidence; the ELBO does not."


def gap_of_a_funnel() -> tuple[float, float]:
    """D − 1 = 49 numbers x and σ_v = 1: ½ log(1 + 49/2) nats, and s² = 1 / (1 + 49/2)."""
    inside = 1 + (DIMENSION - 1) * SCALE**2 / 2
    return 0.5 * math.log(inside), SCALE / math.sqrt(inside)


@exercise(
    gap_of_a_funnel,
    hints=("Both formulas are in section 1. How many numbers x does a funnel of dimension D have?",),
    value=True,
)
def gap(answer: tuple[float, float]) -> str:
    """Judges (nats, sd of v) of the best mean-field guide of a funnel with D = 50 and σ_v = 1."""
    if not isinstance(answer, tuple | list) or len(answer) != 2:
        raise Wrong(f"{answer!r}: must be two numbers, (nats, sd).")
    funnel, larger = Funnel(DIMENSION, SCALE), Funnel(DIMENSION + 1, SCALE)
    nats, sd = funnel.mean_field_gap(), funnel.mean_field()[0]
    loss, width = (float(answered(value)) for value in answer)
    if abs(loss - 2 * nats) < 0.01:
        raise Wrong(f"nats = {loss}: the factor ½ is missing.")
    if abs(loss - larger.mean_field_gap()) < 0.004:
        raise Wrong(f"nats = {loss}: there are D − 1 numbers x, since v is one of the D.")
    if abs(loss - nats) > 0.006:
        raise Wrong(f"nats = {loss}: insert D − 1 = 49 and σ_v = 1 into the formula of section 1.")
    if abs(width - sd**2) < 0.006:
        raise Wrong(f"sd = {width}: this is the variance.")
    if abs(width - sd) > 0.006:
        raise Wrong(f"sd = {width}: s² = 1 / (1/σ_v² + (D − 1)/2).")
    return f"The true standard deviation is 1, so the guide is {1 / sd:.0f} times too narrow."


def noncentred_funnel() -> Tensor:
    """e^v is a variance, so x has the standard deviation e^(v/2)."""
    v = pyro.sample("v", dist.Normal(0.0, 3.0))
    raw = pyro.sample("x_raw", dist.Normal(torch.zeros(4), 1.0).to_event(1))
    scaled: Tensor = pyro.deterministic("x", (v / 2).exp() * raw, event_dim=1)
    return scaled


@exercise(
    noncentred_funnel,
    hints=(
        "Section 3 does the same with the eight schools.",
        "Draw x_raw from N(0, I) with .to_event(1), then multiply it by the standard deviation of x given v.",
    ),
)
def noncentred(answer: Callable[[], object]) -> str:
    """Judges a Pyro model: the funnel with D = 5 and σ_v = 3 in non-centred form."""
    nodes = poutine.trace(answer).get_trace().nodes
    if "v" not in nodes:
        raise Unanswered
    for name in ("x_raw", "x"):
        if name not in nodes:
            raise Wrong(f"there is no site {name!r}; it has {[n for n in nodes if not n.startswith('_')]}.")
    if nodes["x"]["value"].shape != (4,) or tuple(nodes["x_raw"]["fn"].event_shape) != (4,):
        raise Wrong("x and x_raw have 4 dimensions; declare those of x_raw as one draw with to_event(1).")
    v, raw = torch.tensor(2.0), torch.tensor([0.5, -1.0, 2.0, 0.1])
    trace = poutine.trace(poutine.condition(answer, data={"v": v, "x_raw": raw})).get_trace()
    x = trace.nodes["x"]["value"]
    if torch.allclose(x, v.exp() * raw):
        raise Wrong("e^v is the variance of x, not its standard deviation.")
    if not torch.allclose(x, (v / 2).exp() * raw):
        raise Wrong("x is not x_raw times its standard deviation e^(v/2).")
    right = dist.Normal(0.0, 3.0).log_prob(v) + dist.Normal(0.0, 1.0).log_prob(raw).sum()
    found = torch.as_tensor(trace.log_prob_sum())
    if not torch.allclose(found, right, atol=1e-4):
        raise Wrong(f"log p(v, x_raw) = {found:.3f} at the test point, but it is {right:.3f}.")
    return "There are no data, so v and x_raw stay independent Gaussians: a mean-field guide is exact."


def local_posterior(y: Tensor, mu: Tensor) -> tuple[Tensor, Tensor]:
    """Two Gaussian factors in θ: precisions add, and the mean is the average weighted by them."""
    precision = 1 / PRIOR_SD**2 + 1 / NOISE_SD**2
    mean = (mu / PRIOR_SD**2 + y / NOISE_SD**2) / precision
    return mean, torch.full_like(mean, precision**-0.5)


@exercise(
    local_posterior,
    hints=(
        "p(θ | y, μ) ∝ N(θ; μ, 0.7²) N(y; θ, 1²), as a function of θ.",
        "The product of two Gaussian densities is Gaussian: its precision is the sum of both precisions.",
        "The mean is (μ/0.49 + y/1) / (1/0.49 + 1/1).",
    ),
)
def local(answer: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> str:
    """Judges (y, μ) → mean and standard deviation of p(θ | y, μ)."""
    generator = torch.Generator().manual_seed(0)
    y, mu = 2 * torch.randn(20, generator=generator), torch.randn(20, generator=generator)
    result = answered(answer(y, mu))
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise Wrong("two things are asked for: mean and standard deviation.")
    mean, sd = (torch.as_tensor(value).double().expand(20) for value in result)
    right_mean, right_sd = local_posterior(y, mu)
    a, b = PRIOR_SD**-2, NOISE_SD**-2
    means = {
        "mean: the weights are exchanged: the more precise of the two counts more.": (mu * b + y * a) / (a + b),
        "mean: this is y; the prior N(μ, 0.7²) pulls it towards μ.": y,
        "mean: this is the middle; the weights are the precisions.": (y + mu) / 2,
        "mean: weight by precisions, not by 1/standard deviation.": (mu / PRIOR_SD + y / NOISE_SD)
        / (1 / PRIOR_SD + 1 / NOISE_SD),
        "mean: μ is missing; the posterior of θ depends on it.": y * b / (a + b),
    }
    look_for_slips(mean, right_mean, means)
    widths = {
        "sd: this is the variance.": torch.full((20,), 1 / (a + b)),
        "sd: this is the precision.": torch.full((20,), a + b),
        "sd: precisions add; variances do not.": torch.full((20,), math.hypot(PRIOR_SD, NOISE_SD)),
    }
    look_for_slips(sd, right_sd, widths)
    return "It depends on y and on μ: a local guide that reads the features of y alone cannot be exact."
