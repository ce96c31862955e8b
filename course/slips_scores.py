"""Exercises of notebook 10: slips in scores (a mixture of Gaussians, a negative log-likelihood)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from flowvae.core.seeds import seeded
from flowvae.course.exercise import Wrong, answered, exercise
from flowvae.course.judging import line, look_for_slips, tensor_of
from flowvae.course.slips import CELL, plane, points
from flowvae.models import LinearGaussian


def wrong_lines_of_the_mixture() -> tuple[int, int]:
    """Line 3 scales by exp(log σ²) = σ². Line 7 mixes in each dimension before line 8 sums over the dimensions.

    Lines 7 and 8 belong in the other order: what they compute is a product of D mixtures, with K^D peaks.
    """
    return 3, 7


mixture_lines = line(
    "mixture_lines",
    wrong_lines_of_the_mixture,
    {
        1: "one component for a whole vector is right",
        2: "the noise is N(0, I)",
        4: "one difference for each component, vector and dimension is right",
        5: "only a shape",
        6: "this is log N(z_d; μ, σ²), one number per dimension",
        8: "a sum over dimensions is needed; the mistake is in its terms",
    },
    "One slip is in the sampler and concerns its widths; the other one is in the score.",
)


def mixture_sample(count: int, log_weight: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """exp(½ log σ²) = σ."""
    k = torch.multinomial(log_weight.exp(), count, replacement=True)
    return mean[k] + (0.5 * log_var[k]).exp() * torch.randn(count, mean.shape[-1])


# two components far apart, with unequal weights and widths
WEIGHT = torch.tensor([0.7, 0.3], dtype=torch.float64)
MEAN = torch.tensor([[-6.0, -6.0], [6.0, 6.0]], dtype=torch.float64)
SD = torch.tensor([[0.4, 1.5], [0.6, 0.9]], dtype=torch.float64)
MIXTURE = (WEIGHT.log(), MEAN, 2 * SD.log())


@exercise(mixture_sample, hints=("What is exp(log_var): a variance or a standard deviation?",))
def sampler(answer: Callable[..., Tensor]) -> str:
    """Judges a sampler (count, log_weight, mean, log_var) → (count, D)."""
    with seeded(0):
        z = tensor_of(answer(20_000, *MIXTURE), (20_000, 2), "one vector per draw")
    if not z.isfinite().all():
        raise Wrong("some draws are not finite. A root of log_var? Take exp first.")
    if ((z[:, 0] < 0) != (z[:, 1] < 0)).double().mean() > 0.05:
        raise Wrong("one draw has coordinates of different components: k belongs to the vector.")
    first = z.sum(-1) < 0
    share = first.double().mean().item()
    if abs(share - 0.7) > 0.02:
        raise Wrong(f"the first component has {share:.0%} of the draws; its weight is 70 %.")
    slips = {
        "this is the sampler as seen: exp(log_var) is the variance, and 0.16 is drawn where 0.4 is right.": SD**2,
        "the sd is the root of the right one: a factor ½ too many in the exponent.": SD.sqrt(),
        "all components have sd 1: log_var is not used.": torch.ones_like(SD),
        "the sd is the inverse of the right one: the sign in the exponent.": 1 / SD,
    }
    look_for_slips(torch.stack([z[first].std(0), z[~first].std(0)]), SD, slips, rtol=0.05)
    if torch.corrcoef(z[first].T)[0, 1].abs() > 0.1:
        raise Wrong("the coordinates of a draw share their noise; each dimension needs a number of its own.")
    return "The widths of the 20 000 draws agree with log_var."


def mixture_log_prob(z: Tensor, log_weight: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """First the joint density of each component, then the mixture."""
    normal = Normal(mean[:, None], (0.5 * log_var[:, None]).exp())
    return (normal.log_prob(z).sum(-1) + log_weight[:, None]).logsumexp(0)


@exercise(
    mixture_log_prob,
    hints=(
        "p(z) = Σ_k w_k Π_d N(z_d; μ_kd, σ²_kd): which of the two is inside?",
        "Sum the logarithms over the dimensions first, add log w, then logsumexp over the components.",
    ),
)
def score(answer: Callable[..., Tensor]) -> str:
    """Judges the log-density (z, log_weight, mean, log_var) → (N,) of a mixture."""
    z = points(300, 2, scale=6.0)
    found = tensor_of(answer(z, *MIXTURE), (300,), "one number per vector")
    each, log_w = Normal(MEAN[:, None], SD[:, None]).log_prob(z), WEIGHT.log()[:, None]  # each: (K, N, D)
    joint_each = each.sum(-1)
    as_seen = (each + log_w[..., None]).logsumexp(0).sum(-1)
    slips: dict[str, Any] = {
        "this is the score as seen: a mixture in every dimension, so components mix across dimensions.": as_seen,
        "this is Σ w_k log N_k. A mixture is the logarithm of a mean of densities.": (log_w.exp() * joint_each).sum(0),
        "the weight counts once per dimension: add log w after the sum over dimensions.": (
            joint_each + 2 * log_w
        ).logsumexp(0),
        "the weights are missing; it integrates to the number of components.": joint_each.logsumexp(0),
        "all components have the same weight here.": joint_each.logsumexp(0) - math.log(2),
        "log_var is used as the logarithm of a standard deviation.": (
            Normal(MEAN[:, None], SD[:, None] ** 2).log_prob(z).sum(-1) + log_w
        ).logsumexp(0),
        "−½ log_var is missing: narrow components have higher peaks.": (
            (each + SD.log()[:, None]).sum(-1) + log_w
        ).logsumexp(0),
        "−½ log 2π is missing, once for each dimension.": (joint_each + log_w).logsumexp(0) + math.log(2 * math.pi),
        "this is a density; its logarithm is asked for.": (joint_each + log_w).logsumexp(0).exp(),
    }
    truth = MixtureSameFamily(Categorical(WEIGHT), Independent(Normal(MEAN, SD), 1)).log_prob(z)
    look_for_slips(found, truth, slips, unit="nats")
    z = plane()
    seen = (Normal(MEAN[:, None], SD[:, None]).log_prob(z) + log_w[..., None]).logsumexp(0).sum(-1)
    empty = z[:, 0].sign() != z[:, 1].sign()  # the quadrants without a component
    stray = seen.exp()[empty].sum().item() * CELL**2
    return f"The score as seen puts {stray:.0%} of the mass into quadrants without a component; yours puts none there."


def wrong_line_of_the_nll() -> int:
    """Line 3 has no minus: it returns the mean log-likelihood."""
    return 3


nll_line = line(
    "nll_line",
    wrong_line_of_the_nll,
    {1: "a weight is a ratio of densities", 2: "the logarithm of the mean over K, and stable"},
    "Should the number rise or fall when the model improves?",
)


def linear_model(scale: float) -> LinearGaussian:
    """Returns a linear-Gaussian model of four dimensions with noise of this standard deviation."""
    weight = torch.tensor([[1.0, 0.4], [-0.6, 0.8], [0.3, 0.9], [0.7, -0.2]], dtype=torch.float64)
    return LinearGaussian(weight, torch.zeros(4, dtype=torch.float64), scale).requires_grad_(False)


def get_nll(log_joint: Tensor, log_q: Tensor, dimensions: int) -> tuple[Tensor, Tensor]:
    """In nats per data point, and in bits per dimension: a bit is log 2 nats."""
    log_w = log_joint - log_q
    nats = -(log_w.logsumexp(0) - math.log(len(log_w))).mean()
    return nats, nats / dimensions / math.log(2)


@exercise(
    get_nll,
    hints=(
        "NLL is the *negative* log-likelihood: smaller is better.",
        "One bit is log 2 = 0.693 nats, so a number in bits is larger than the number in nats.",
    ),
)
def nll(answer: Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]) -> str:
    """Judges a function (log_joint, log_q, D), both (K, N) → NLL in nats per data point, and in bits/dim."""
    model = linear_model(0.5)
    with seeded(0):
        x = model(size=500)
        narrow = model.mean_field(x)
        wide = Independent(Normal(narrow.mean, 1.4 * narrow.stddev), 1)
        z = wide.sample(torch.Size((200,)))
    log_q = wide.log_prob(z)
    log_joint = model.log_evidence(x) + model.posterior(x).log_prob(z)
    found = answered(answer(log_joint, log_q, 4))
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise Wrong("return two numbers: (nats per data point, bits per dimension).")
    log_w, right = log_joint - log_q, get_nll(log_joint, log_q, 4)
    together = log_w.flatten().logsumexp(0) - math.log(log_w.numel())
    nats = {
        "nats: this is the function as seen, the mean log-likelihood. NLL has a minus.": -right[0],
        "nats: this is minus the ELBO: the logarithm is inside the mean over K.": -log_w.mean(),
        "nats: divide by K inside the logarithm: log K is missing.": right[0] - math.log(200),
        "nats: it is summed over the data points; the exercise asks for the mean.": 500 * right[0],
        "nats: dimension 0 counts the draws, dimension 1 the data points.": math.log(500) - log_w.logsumexp(1).mean(),
        "nats: the mean over data points is inside the logarithm, but logarithms of independent data add.": -together,
    }
    bits = {
        "bits: divide by the number of dimensions too.": 4 * right[1],
        "bits: these are nats per dimension; divide by log 2.": right[0] / 4,
        "bits: divide by log 2, do not multiply: there are more bits than nats.": right[0] * math.log(2) / 4,
        "bits: the sign: both are costs.": -right[1],
    }
    for value, wanted, slips in zip(found, right, (nats, bits), strict=True):
        look_for_slips(tensor_of(value, (), "one number"), wanted, slips)
    exact = -model.log_evidence(x).mean()
    return f"{right[0]:.3f} nats per data point (exact: {exact:.3f}), {right[1]:.3f} bits per dimension."
