"""Exercises of notebook 18: four kinds of models."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from flowvae.course.exercise import Unanswered, Wrong, answered, exercise
from flowvae.course.judging import look_for_slips

PIXELS = 64


def log_ratio(log_p: Tensor, log_q: Tensor) -> Tensor:
    """At every x the loss is −p log σ(d) − q log(1 − σ(d)).

    Its derivative with respect to d is −p (1 − σ(d)) + q σ(d), which is zero for σ(d) = p / (p + q), so d = log p/q. A
    discriminator is thus an estimate of a density ratio.
    """
    return log_p - log_q


@exercise(
    log_ratio,
    hints=(
        "Fix one x: the loss there is −p log σ(d) − q log(1 − σ(d)). Minimize it over d.",
        "σ(d) = p / (p + q). Which d has this σ(d)? The inverse of the sigmoid is log s/(1 − s).",
    ),
)
def discriminator_of(answer: Callable[[Tensor, Tensor], Tensor]) -> str:
    """Judges a function (log p, log q) → the best output of the discriminator, shape (N,)."""
    generator = torch.Generator().manual_seed(0)
    log_p, log_q = 2 * torch.randn(2, 40, generator=generator, dtype=torch.float64) - 3
    found = answered(answer(log_p, log_q))
    if tuple(found.shape) != (40,):
        raise Wrong(f"the shape is {tuple(found.shape)} and should be (40,): one output for each x.")
    right = log_p - log_q
    slips = {
        "the sign: d is large for data, that is where p is larger than q.": -right,
        "this is σ(d), a probability; return d, its logit.": right.sigmoid(),
        "this is the probability of being a draw; return d for data, before the sigmoid.": (-right).sigmoid(),
        "this is the ratio p/q; d is its logarithm.": right.exp(),
        "the logarithm of a ratio is a difference of logarithms, not their ratio.": log_p / log_q,
        "this is log σ(d); return d itself.": torch.nn.functional.logsigmoid(right),
    }
    otherwise = f"it is off by up to {(found - right).abs().max():.3g}. Minimize the loss at a single x."
    look_for_slips(found, right, slips, rtol=1e-5, atol=1e-8, otherwise=otherwise)
    if not torch.isfinite(answer(log_p - 2000, log_q - 2000)).all():
        raise Wrong("this is right for ordinary densities, but exp(−2000) is 0 in a computer. Stay with logarithms.")
    return "The best discriminator is the log of the density ratio, and it is 0 everywhere if the generator is perfect."


def frechet(m1: Tensor, v1: Tensor, m2: Tensor, v2: Tensor) -> Tensor:
    """The dimensions add, and in each v1 + v2 − 2 √(v1 v2) = (√v1 − √v2)²: the difference of standard deviations."""
    return (m1 - m2).square().sum() + (v1.sqrt() - v2.sqrt()).square().sum()


@exercise(
    frechet,
    hints=(
        "The trace is a sum over the dimensions, and (Σ_a Σ_b)^½ is √(v1 v2) in each of them.",
        "v1 + v2 − 2 √(v1 v2) is a square.",
    ),
)
def fid(answer: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor | float]) -> str:
    """Judges a function (m1, v1, m2, v2) → the FID of two Gaussians with independent dimensions."""
    generator = torch.Generator().manual_seed(0)
    m1, m2 = torch.randn(2, 5, generator=generator, dtype=torch.float64)
    v1, v2 = torch.rand(2, 5, generator=generator, dtype=torch.float64) + 0.1
    found = answer(m1, v1, m2, v2)
    if found is None:
        raise Unanswered
    given = torch.as_tensor(found, dtype=torch.float64)
    if given.numel() != 1:
        raise Wrong(f"the shape is {tuple(given.shape)}; return one number: the dimensions add.")
    value, right = given.reshape(()), frechet(m1, v1, m2, v2)
    means, spreads = (m1 - m2).square().sum(), right - (m1 - m2).square().sum()
    slips = {
        "square the difference of the means.": (m1 - m2).norm() + spreads,
        "the spreads count as well as the means.": means,
        "the means count as well as the spreads.": spreads,
        "v1 and v2 are variances; the square root of their product is missing.": means + (v1 + v2 - 2 * v1 * v2).sum(),
        "compare standard deviations, not variances.": means + (v1 - v2).square().sum(),
        "FID is the square of this distance.": right.sqrt(),
        "the dimensions add; this is their mean.": right / 5,
    }
    otherwise = f"{value:.4g} is not the FID. Write it for one dimension first."
    look_for_slips(value, right, slips, rtol=1e-5, atol=1e-8, otherwise=otherwise)
    return "In each dimension it is (difference of means)² + (difference of standard deviations)²."


def net_length(reconstruction: Tensor, log_prior: Tensor, log_guide: Tensor) -> Tensor:
    """Add three lengths: z costs −log p(z), x given z costs −log p(x | z), and choosing z gave −log q(z | x) back."""
    return -(reconstruction + log_prior - log_guide) / (PIXELS * math.log(2))


@exercise(
    net_length,
    hints=(
        "Sent: z with −log₂ p(z) bits, then x with −log₂ p(x | z) bits. What comes back?",
        "Back come −log₂ q(z | x) bits. Then divide by the number of pixels, and turn nats into bits.",
    ),
)
def bits_back(answer: Callable[[Tensor, Tensor, Tensor], Tensor]) -> str:
    """Judges a function from the three log-densities (N,) in nats to the net length in bits per pixel (N,)."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(3, 30, generator=generator, dtype=torch.float64)
    given = 9 * noise[0] - 80, 2 * noise[1] - 11, noise[2] + 3
    found = answered(answer(*given))
    if tuple(found.shape) != (30,):
        raise Wrong(f"the shape is {tuple(found.shape)} and should be (30,): one length for each image.")
    reconstruction, log_prior, log_guide = given
    right = net_length(*given)
    unit = PIXELS * math.log(2)
    slips = {
        "the sign: a code length is −log₂ of a probability.": -right,
        "these are nats per pixel: divide by log 2.": right * math.log(2),
        "these are bits per image: divide by 64.": right * PIXELS,
        "these are nats per image: divide by 64 and by log 2.": right * unit,
        "nothing comes back here: the choice of z carries −log₂ q(z | x) bits of another message.": -(
            reconstruction + log_prior
        )
        / unit,
        "the receiver gets bits back, so log q(z | x) has the other sign.": -(reconstruction + log_prior + log_guide)
        / unit,
        "z must be sent too, with −log₂ p(z) bits.": -(reconstruction - log_guide) / unit,
    }
    otherwise = f"it is off by up to {(found - right).abs().max():.3g} bits per pixel. What is sent, what comes back?"
    look_for_slips(found, right, slips, rtol=1e-5, atol=1e-8, otherwise=otherwise)
    back = (log_guide - log_prior).mean() / unit
    return f"The code z costs {back:.2f} of the {right.mean():.2f} bits per pixel: its KL."
