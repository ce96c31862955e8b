"""Exercises of notebook 11: posterior collapse."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from flowvae.course.exercise import exercise
from flowvae.course.judging import look_for_slips, tensor_of

EIGENVALUES = torch.tensor([9.0, 4.0, 2.5, 1.2, 0.7, 0.1], dtype=torch.float64)


def codes() -> tuple[Tensor, Tensor]:
    """Means and scales of a guide for 400 images and four units: the third is dead, the fourth only shifted."""
    generator = torch.Generator().manual_seed(0)
    loc = torch.randn(400, 4, generator=generator, dtype=torch.float64) * torch.tensor([0.9, 0.5, 0.0, 0.0])
    noise = torch.rand(400, 4, generator=generator, dtype=torch.float64)
    scale = torch.tensor([0.4, 0.8, 0.99, 0.99]) * (1 + 0.02 * noise)
    return loc + torch.tensor([0.0, 0.1, 0.0, 0.7]), scale


def variance_of_means(loc: Tensor, scale: Tensor) -> Tensor:
    """The variance over the images of μ_j(x).

    The prior variance of unit j is 1, so no normalization is needed. E_q[z_j | x] = μ_j(x) for any scale.
    """
    return loc.var(0)


@exercise(
    variance_of_means,
    hints=(
        "E_q[z_j | x] is the mean of the guide for image x. Which of the two arguments is that?",
        "Take the variance over the images, dimension 0. The prior variance of unit j is 1.",
    ),
)
def in_use(answer: Callable[[Tensor, Tensor], Tensor]) -> str:
    """Judges a function (loc, scale) of shape (N, D) → Var_x E_q[z_j | x], shape (D,)."""
    loc, scale = codes()
    found = tensor_of(answer(loc, scale), (4,), "one number for each unit, a variance over the images")
    slips = {
        "this is the variance of z under the aggregated posterior, which is about 1 for a dead unit. Use the variance "
        "of the mean alone.": loc.var(0) + scale.square().mean(0),
        "a variance subtracts the mean over the images first: a unit whose mean is the same for all images says "
        "nothing about them.": loc.square().mean(0),
        "this is a standard deviation; its square is the variance.": loc.std(0),
        "this is the mean posterior variance; a unit that is in use has a small one.": scale.square().mean(0),
        "1 − E[σ²] is the activity only if the aggregated posterior has variance 1, which nothing guarantees.": 1
        - scale.square().mean(0),
    }
    look_for_slips(found, loc.var(0), slips, rtol=1e-2, atol=1e-4)
    return "The last unit has a mean of 0.7 for every image. It costs KL and says nothing: KL alone does not show that."


def unit_kl(eigenvalues: Tensor, noise_variance: float, beta: float) -> Tensor:
    """max(0, ½ log(λ_j / βσ²)).

    Divided by β, the objective is the ELBO of a model with noise variance βσ², up to a constant. Its optimum has
    w_j² = λ_j − βσ² where this is positive, posterior variance βσ²/λ_j, and an aggregated posterior with variance 1. So

        E_x KL_j = ½ (E[μ_j²] + σ_j² − 1) − ½ log σ_j² = ½ (1 − 1) + ½ log(λ_j / βσ²).
    """
    return 0.5 * (eigenvalues / (beta * noise_variance)).log().clamp_min(0)


@exercise(
    unit_kl,
    hints=(
        "For β = 1 the posterior variance of a unit that is alive is σ²/λ_j, and E[μ_j²] + σ_j² = 1.",
        "Divide the objective by β: the KL has weight 1 again, and σ² has become βσ².",
        "A unit below the threshold has KL 0, not a negative one.",
    ),
)
def dead_or_alive(answer: Callable[[Tensor, float, float], Tensor]) -> str:
    """Judges a function (eigenvalues, noise variance, β) → KL of each unit at the optimum, in nats."""
    noise, beta = 0.5, 1.5
    found = tensor_of(answer(EIGENVALUES, noise, beta), (6,), "one number for each unit")
    right = unit_kl(EIGENVALUES, noise, beta)
    slips = {
        "a KL is never negative: below the threshold the unit is dead and its KL is 0.": 0.5
        * (EIGENVALUES / (beta * noise)).log(),
        "a KL is never negative, and β is missing.": 0.5 * (EIGENVALUES / noise).log(),
        "the threshold is βσ² too: a unit between σ² and βσ² is dead.": 0.5
        * (EIGENVALUES / (beta * noise)).log()
        * (noise < EIGENVALUES),
        "the sign: the posterior variance is below 1, so its logarithm is negative and the KL is positive.": -right,
        "this is β KL, the term of the loss; the KL is asked for.": beta * right,
        "a factor ½ is missing.": 2 * right,
        "β is missing: divided by β, the objective has noise variance βσ².": unit_kl(EIGENVALUES, noise, 1.0),
        "β is on the wrong side: a larger β makes the KL smaller.": unit_kl(EIGENVALUES, noise, 1 / beta),
        "this is in bits; use the natural logarithm.": right / torch.tensor(2.0).log(),
        "σ² is the variance of the noise; you used its square root.": unit_kl(EIGENVALUES, noise**0.5, beta),
    }
    look_for_slips(found, right, slips, unit="nats")
    return (
        f"{int((right > 0).sum())} of 6 units are alive at β = {beta:g}, {int((noise < EIGENVALUES).sum())} at β = 1."
    )


def free_bits(kl: Tensor, floor: float) -> Tensor:
    """Σ_j max(λ, mean over the batch of KL_j)."""
    return kl.mean(0).clamp_min(floor).sum()


@exercise(
    free_bits,
    hints=(
        "The floor is for each unit, and for its mean over the batch: a unit may say little about one image.",
        "Mean over dimension 0, then the maximum with λ, then the sum over the units.",
    ),
)
def penalty(answer: Callable[[Tensor, float], Tensor]) -> str:
    """Judges a function (KL of each image and unit (N, D), λ) → the KL term with free bits, in nats per image."""
    generator = torch.Generator().manual_seed(0)
    size = torch.tensor([2.0, 0.5, 0.2, 0.02], dtype=torch.float64)
    kl, floor = size * torch.rand(300, 4, generator=generator, dtype=torch.float64) * 2, 0.25
    found = tensor_of(answer(kl, floor), (), "one number, nats per image")
    right = free_bits(kl, floor)
    slips = {
        "take the mean over the batch first, then the floor.": kl.clamp_min(floor).sum(1).mean(),
        "this is the plain KL term: the floor of the sum alone lets all units but one die. Hold each unit.": kl.sum(
            1
        ).mean(),
        "this caps the KL; a floor is a maximum with λ.": kl.mean(0).clamp_max(floor).sum(),
        "this counts what lies above the floor only. The gradient is the same, but the value is not.": (
            kl.mean(0) - floor
        )
        .clamp_min(0)
        .sum(),
        "sum over the units: the KL of independent dimensions adds.": right / 4,
    }
    look_for_slips(found, right, slips, unit="nats")
    return "A unit below the floor has gradient zero from this term: nothing pushes it towards the prior any more."
