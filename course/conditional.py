"""Exercises of notebook 14: conditional models."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

from flowvae.course.exercise import Wrong, answered, exercise
from flowvae.course.judging import look_for_slips

CLASSES = 10


def most_nats() -> float:
    """The entropy of a class, log 10 ≈ 2.30 nats.

    By Bayes' rule, for any model and any image,

        log p(x | c) − log p(x) = log p(c | x) − log p(c) ≤ −log p(c) = log 10,

    since log p(c | x) ≤ 0. The bound is reached if every image determines its class. On average over the true
    distribution the gain is the mutual information I(x; c) = H(c) − H(c | x) ≤ H(c).
    """
    return math.log(CLASSES)


@exercise(
    most_nats,
    hints=(
        "Use Bayes' rule: what is log p(x | c) − log p(x) in terms of p(c | x) and p(c)?",
        "It is log p(c | x) − log p(c), and a probability is at most 1.",
    ),
    value=True,
)
def worth(answer: float | Tensor) -> str:
    """Judges the largest gain of log p(x | c) over log p(x), in nats, for ten equally frequent classes."""
    number, right = float(answer), most_nats()
    slips = {
        "this is in bits; one bit is log 2 nats.": math.log2(CLASSES),
        "a bound on a gain is positive; you took the logarithm of 1/10.": -right,
        "10 is the number of classes; the entropy of a class is its logarithm.": float(CLASSES),
        "this is the entropy of one class out of ten against the other nine; all ten have to be told apart.": (
            -0.1 * math.log(0.1) - 0.9 * math.log(0.9)
        ),
    }
    otherwise = f"{number:.4g} nats is not the bound. How many nats does it take to say which class it is?"
    look_for_slips(number, right, slips, rtol=1e-2, atol=0, otherwise=otherwise)
    return f"No model gains more than these {right:.2f} nats over its own log p(x) = log Σ_c p(x | c) p(c)."


def kl_to_class(loc: Tensor, scale: Tensor, label: Tensor, class_loc: Tensor, class_scale: Tensor) -> Tensor:
    """The prior's mean and scale are rows of a table, chosen by the class; the rest is the KL of two Gaussians."""
    mean, deviation = class_loc[label], class_scale[label]
    ratio = (scale / deviation).square()
    return 0.5 * (ratio + ((loc - mean) / deviation).square() - 1 - ratio.log()).sum(-1)


@exercise(
    kl_to_class,
    hints=(
        "Row n of the prior is N(m_c, s_c²) with c = label[n]; class_loc[label] has the shape of loc.",
        "For one dimension the KL is ½ (σ²/s² + (μ − m)²/s² − 1 − log(σ²/s²)).",
    ),
)
def conditional_kl(answer: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]) -> str:
    """Judges a function (loc, scale, label, class_loc, class_scale) → KL(q(z | x, c)‖p(z | c)), shape (N,)."""
    generator = torch.Generator().manual_seed(0)
    loc, scale = torch.randn(40, 3, generator=generator), torch.rand(40, 3, generator=generator) + 0.2
    label = torch.randint(4, (40,), generator=generator)
    means, deviations = 2 * torch.randn(4, 3, generator=generator), torch.rand(4, 3, generator=generator) + 0.4
    found = answered(answer(loc, scale, label, means, deviations))
    if tuple(found.shape) != (40,):
        raise Wrong(f"the shape is {tuple(found.shape)} and should be (40,): one KL for each image.")

    def kl(q: tuple[Tensor, Tensor], p: tuple[Tensor, Tensor]) -> Tensor:
        return kl_divergence(Independent(Normal(*q), 1), Independent(Normal(*p), 1))

    q, p = (loc, scale), (means[label], deviations[label])
    right = kl(q, p)
    slips = {
        "this is the KL to N(0, I), which does not depend on the class.": kl(q, (torch.zeros(3), torch.ones(3))),
        "this is KL(p‖q); the first argument is the guide.": kl(p, q),
        "the prior's scale is missing: you used s = 1 for every class.": kl(q, (means[label], torch.ones(40, 3))),
        "the prior's mean is missing: you used m = 0 for every class.": kl(q, (torch.zeros(40, 3), deviations[label])),
        "the KL is a sum over the dimensions of a code, not a mean.": right / 3,
        "a factor ½ is missing.": 2 * right,
        "scales are standard deviations; you used them as variances.": kl(
            (loc, scale.sqrt()), (means[label], deviations[label].sqrt())
        ),
    }
    otherwise = f"it is off by up to {(found - right).abs().max():.3g} nats. Try one dimension first."
    look_for_slips(found, right, slips, rtol=1e-3, atol=1e-5, otherwise=otherwise)
    return "With a flow in the prior, the formula is replaced by log q(z | x, c) − log p(z | c) at a draw."


def class_given_data(log_likelihood: Tensor, log_prior: Tensor) -> Tensor:
    """Bayes: log p(x | c) + log p(c) − log p(x), where log p(x) = log Σ_c p(x | c) p(c) is a logsumexp over classes."""
    return (log_likelihood + log_prior).log_softmax(-1)


@exercise(
    class_given_data,
    hints=(
        "Bayes: p(c | x) = p(x | c) p(c) / p(x). What is p(x), if only p(x | c) is known?",
        "p(x) = Σ_c p(x | c) p(c), a sum over the last dimension; in logarithms, logsumexp.",
    ),
)
def bayes(answer: Callable[[Tensor, Tensor], Tensor]) -> str:
    """Judges a function (log p(x | c) of shape (N, C), log p(c) of shape (C,)) → log p(c | x), shape (N, C)."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    x = 3 * torch.randn(60, 1, generator=generator, dtype=torch.float64)
    log_likelihood = Normal(torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64), 1.0).log_prob(x)
    log_prior = weights.log()
    found = answered(answer(log_likelihood, log_prior))
    if tuple(found.shape) != (60, 3):
        raise Wrong(f"the shape is {tuple(found.shape)} and should be (60, 3): one number for each image and class.")
    joint = log_likelihood.exp() * weights
    right = (joint / joint.sum(1, keepdim=True)).log()
    slips = {
        "p(c) is missing: a class that is rare needs more evidence.": log_likelihood.log_softmax(1),
        "this is the joint log p(x, c); divide by p(x).": log_likelihood + log_prior,
        "these are probabilities; the exercise asks for their logarithms.": right.exp(),
        "you normalized over the images. For each image, the probabilities of the classes sum to one.": (
            log_likelihood + log_prior
        ).log_softmax(0),
        "p(c) was subtracted; Bayes' rule multiplies by it.": (log_likelihood - log_prior).log_softmax(1),
    }
    look_for_slips(found, right, slips, rtol=1e-5, atol=1e-8, unit="nats")
    if not torch.isfinite(answer(log_likelihood - 2000, log_prior)).all():
        raise Wrong("this is right for one number x, but exp(−2000) is 0 in a computer. Use logsumexp or log_softmax.")
    return f"Largest probability of a class, on average: {found.exp().max(1).values.mean():.2f}."


BaseMap = Callable[[Tensor, Tensor], Tensor]


def to_other_class(z: Tensor, c: Tensor, new: Tensor, to_base: BaseMap, from_base: BaseMap) -> Tensor:
    """The image's class maps z to u, which is independent of the class; the new class maps u to a code."""
    return from_base(to_base(z, c), new)


@exercise(
    to_other_class,
    hints=(
        "What two images of different classes can have in common is u, not z.",
        "u = T⁻¹(z; c) with the class that the image has. Which class belongs to the way back?",
    ),
)
def transfer(answer: Callable[[Tensor, Tensor, Tensor, BaseMap, BaseMap], Tensor]) -> str:
    """Judges a function (z, c, new, to_base, from_base) → the code with the same u in another class, shape (N, D)."""
    generator = torch.Generator().manual_seed(0)
    means, scales = 3 * torch.randn(4, 2, generator=generator), torch.rand(4, 2, generator=generator) + 0.5
    c = torch.arange(40) % 4
    new = (c + 1 + torch.arange(40) % 3) % 4

    def to_base(z: Tensor, c: Tensor) -> Tensor:
        return torch.asinh((z - means[c]) / scales[c])

    def from_base(u: Tensor, c: Tensor) -> Tensor:
        return means[c] + scales[c] * torch.sinh(u)

    u = torch.randn(40, 2, generator=generator)
    z = from_base(u, c)
    found = answered(answer(z, c, new, to_base, from_base))
    if tuple(found.shape) != (40, 2):
        raise Wrong(f"the shape is {tuple(found.shape)} and should be (40, 2): one code for each image.")
    slips = {
        "this is the code that you started from: the way back used the old class.": z,
        "this is u itself; the decoder needs a code.": u,
        "the two classes are exchanged: z belongs to the class c.": from_base(to_base(z, new), c),
        "from_base takes base points, and z is a code: take it to the base first.": from_base(z, new),
        "this is a base point, and of the wrong class: z belongs to the class c.": to_base(z, new),
    }
    look_for_slips(found, from_base(u, new), slips, rtol=1e-5, atol=1e-4)
    return "The same u in every class: u keeps the information that the class does not contain."
