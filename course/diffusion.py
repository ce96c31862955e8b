"""Exercises of notebook 17: from hierarchy to diffusion."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from flowvae.course.exercise import Unanswered, Wrong, answered, exercise
from flowvae.course.judging import look_for_slips


def reverse_step(z: Tensor, v: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    """Precisions add, and precision times mean adds.

    The prior of z_{t−1} has the precision 1/v and mean 0. The step z_t = √(1 − β) z_{t−1} + √β ε, read as a likelihood
    of z_{t−1}, has the precision (1 − β)/β and the mean z_t/√(1 − β). Together

        1/variance = 1/v + (1 − β)/β = (β + (1 − β) v) / (v β),
        mean = variance · √(1 − β) z_t / β = √(1 − β) v z_t / (β + (1 − β) v).

    For v = 1 this is the noising step itself: the chain looks the same in both directions.
    """
    total = beta + (1 - beta) * v
    return (1 - beta).sqrt() * v * z / total, v * beta / total


@exercise(
    reverse_step,
    hints=(
        "Bayes' rule: q(z_{t−1} | z_t) ∝ q(z_t | z_{t−1}) q(z_{t−1}), a product of two Gaussians in z_{t−1}.",
        "The exponent is −(z_t − √(1 − β) z_{t−1})² / 2β − z_{t−1}² / 2v. Complete the square in z_{t−1}.",
        "The precision is (1 − β)/β + 1/v, and the mean is √(1 − β) z_t / β divided by it.",
    ),
)
def reverse(answer: Callable[[Tensor, Tensor, Tensor], Any]) -> str:
    """Judges a function (z, v, beta) → mean and variance of q(z_{t−1} given z_t)."""
    z, v = torch.tensor([-1.0, 0.5, 2.0]).double(), torch.tensor([0.3, 2.0, 1.0]).double()
    beta = torch.tensor([0.1, 0.4, 0.2]).double()
    found = answered(answer(z, v, beta))
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise Wrong("return two things: the mean and the variance.")
    mean, variance = (torch.as_tensor(part, dtype=torch.float64) for part in found)
    right_mean, right_variance = reverse_step(z, v, beta)
    if torch.allclose(variance, right_variance.sqrt()):
        raise Wrong("your second value is the standard deviation; return the variance.")
    if torch.allclose(mean, (1 - beta).sqrt() * z):
        raise Wrong("this is the mean of the forward step; the mean must depend on the prior variance v.")
    if torch.allclose(mean, z / (1 - beta).sqrt()):
        raise Wrong("this mean ignores the prior of z_{t−1}, whose mean is 0: it holds for v → ∞ only.")
    if torch.allclose(variance, beta.expand(3)) or torch.allclose(variance, beta / (1 - beta)):
        raise Wrong("the variance ignores the prior of z_{t−1}: for a tiny v it must be tiny.")
    if torch.allclose(mean, (1 - beta) * v * z / (beta + (1 - beta) * v)):
        raise Wrong("the covariance of z_{t−1} and z_t is √(1 − β) v, not (1 − β) v.")
    for name, part, right in (("mean", mean, right_mean), ("variance", variance, right_variance)):
        if part.shape != right.shape or not torch.allclose(part, right):
            raise Wrong(
                f"the {name} is not right. Check it at v = 1, where z_{{t−1}} and z_t have the same distribution."
            )
    return "For v = 1 it is the forward step again: noise of unit variance looks the same in both directions."


def noise_weights(beta: Tensor) -> Tensor:
    """w_t = β_t² / (2 s_t² (1 − β_t)(1 − ᾱ_t)) with s_t² = β_t, and ᾱ_t the product of 1 − β up to and including t."""
    kept = (1 - beta).cumprod(0)
    return beta / (2 * (1 - beta) * (1 - kept))


@exercise(
    noise_weights,
    hints=(
        "Only ᾱ_t is missing: it is a cumulative product.",
        "beta² / (2 · beta · (1 − beta) · (1 − ᾱ)), with ᾱ = (1 − beta).cumprod(0).",
    ),
)
def weight(answer: Callable[[Tensor], Tensor]) -> str:
    """Judges a function from β (L,) to the weights of the ELBO (L,) for s_t² = β_t."""
    beta = torch.linspace(1e-3, 0.2, 40, dtype=torch.float64)
    found = answered(answer(beta))
    if tuple(found.shape) != (40,):
        raise Wrong(f"the shape is {tuple(found.shape)} and should be (40,): one weight for each level.")
    right, kept = noise_weights(beta), (1 - beta).cumprod(0)
    before = torch.cat((torch.ones(1, dtype=torch.float64), kept[:-1]))
    slips = {
        "there is a factor ½ in the exponent of a Gaussian.": 2 * right,
        "s_t² = β_t is in the denominator, so one β_t of β_t² cancels.": beta * right,
        "here s_t² is β_t, not β̃_t, and 1 − ᾱ_t is the noise in z_t, not in z_{t−1}.": right[1:]
        * (1 - kept[1:])
        / (1 - before[1:]),
        "ᾱ_t is the product of all 1 − β up to t, not 1 − β_t alone.": beta / (2 * (1 - beta) * beta),
        "the factor 1 − β_t is missing: m_t is divided by √(1 − β_t).": right * (1 - beta),
    }
    for reason, value in slips.items():
        if torch.allclose(found[-len(value) :], value, rtol=1e-4):
            raise Wrong(reason)
    if not torch.allclose(found, right, rtol=1e-4):
        raise Wrong("this is not the factor in (4). Compute ᾱ_t first, then insert s_t² = β_t.")
    return f"They fall from {right[0]:.2f} at the first level to {right[-1]:.2f}: the ELBO cares about small noise."


def smallest_kl(tilde: Tensor, errors: Tensor) -> Tensor:
    """s² = β̃ + mean of ‖μ̃ − m‖² / D.

    The mean KL, up to a constant, is (β̃ D + E‖μ̃ − m‖²) / 2s² + (D/2) log s². Its derivative with respect to s² is zero
    where s² = (β̃ D + E‖μ̃ − m‖²) / D. It is the maximum-likelihood variance: the mean square of z_{t−1} − m.
    """
    return tilde + errors.square().mean()


@exercise(
    smallest_kl,
    hints=(
        "Write the mean KL as a function of s² alone: c / 2s² + (D/2) log s² + constant.",
        "c = D β̃ + E‖μ̃ − m‖², and the minimum is at s² = c / D.",
    ),
)
def best_variance(answer: Callable[[Tensor, Tensor], Tensor | float]) -> str:
    """Judges a function (β̃, errors (N, D)) → the variance s² that minimizes the mean KL."""
    generator = torch.Generator().manual_seed(0)
    tilde = torch.tensor(0.3, dtype=torch.float64)
    errors = 0.4 * torch.randn(500, 3, generator=generator, dtype=torch.float64) + 0.2
    found = answer(tilde, errors)
    if found is None:
        raise Unanswered
    given = torch.as_tensor(found, dtype=torch.float64)
    if given.numel() != 1:
        raise Wrong(f"the shape is {tuple(given.shape)}; return one number for all dimensions.")
    right, value = smallest_kl(tilde, errors), given.reshape(())
    slips = {
        "this is the standard deviation; return the variance.": right.sqrt(),
        "β̃ is missing: even with a perfect mean, z_{t−1} varies by β̃ around μ̃.": right - tilde,
        "the network is not perfect: its squared errors add to β̃.": tilde,
        "divide the squared length by D, since s² serves all D dimensions.": tilde + errors.square().sum(-1).mean(),
        "an error that is the same for all draws counts too: take the mean square, not the variance.": tilde
        + errors.var(0, correction=0).mean(),
    }
    otherwise = f"s² = {value:.4f} does not minimize the mean KL. Set its derivative with respect to s² to zero."
    look_for_slips(value, right, slips, rtol=1e-3, atol=1e-8, otherwise=otherwise)
    return f"s² = {value:.4f}: the mean square of z_(t−1) − m that the network leaves."
