"""Exercises of notebook 8: the flow posterior."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from flowvae.course.exercise import Wrong, answered, exercise
from flowvae.course.judging import look_for_slips
from flowvae.flows import Planar
from flowvae.flows.planar.planar import PlanarTransform

Layer = tuple[Tensor, Tensor, Tensor]
CHOICES = ("approximation too large", "amortization too large", "neither")
LAYERS = 10


def stacked_log_det(z: Tensor, layers: Sequence[Layer]) -> Tensor:
    """Each layer is evaluated at the output of the layers before it."""
    total = torch.zeros(len(z))
    for u, w, b in layers:
        t = torch.tanh(z @ w + b)
        total = total + torch.log1p((1 - t.square()) * (w @ u))
        z = z + t[:, None] * u
    return total


@exercise(
    stacked_log_det,
    hints=(
        "The log-determinants of a composition add up.",
        "Layer k acts on the output of layer k − 1, so carry z along.",
        "planar(z, u, w, b) of section 2 returns both the next z and the log-determinant.",
    ),
)
def stack(answer: Callable[[Tensor, list[Layer]], Tensor]) -> str:
    """Judges a function (z, layers) → log|det| of the stack of planar layers, shape (N,)."""
    generator = torch.Generator().manual_seed(3)
    z = torch.randn(6, 2, generator=generator)
    transforms = []
    for _ in range(3):
        u, w = 2 * torch.randn(2, 2, generator=generator)
        transforms.append(PlanarTransform(w, u, torch.randn((), generator=generator)))
    found = answered(answer(z, [(layer.u_hat, layer.w, layer.b) for layer in transforms]))
    if tuple(found.shape) != (6,):
        raise Wrong(f"the shape is {tuple(found.shape)} and should be (6,): one log-determinant for each row.")

    def run(value: Tensor) -> Tensor:
        for layer in transforms:
            value = layer(value)
        return value

    right = torch.stack([torch.func.jacrev(run)(row).det().log() for row in z])
    slips = {
        "every layer is taken at the first z. A layer acts on the output of the layers before it.": torch.stack(
            [layer.log_abs_det_jacobian(z, z) for layer in transforms]
        ).sum(0),
        "this is the determinant; the exercise asks for its logarithm.": right.exp(),
        "the sign is inverted: this is the log-determinant of the inverse.": -right,
    }
    otherwise = f"it is off by up to {(found - right).abs().max():.3g} nats from the Jacobian by autograd."
    look_for_slips(found, right, slips, rtol=1e-5, atol=1e-4, otherwise=otherwise)
    return "It equals the log-determinant of the whole Jacobian by autograd."


def static_and_conditioned() -> tuple[int, int]:
    """A layer has u and w, of 2 numbers each, and b: 5 numbers.

    A conditioned flow gets all of them from the encoder, with 2 numbers for μ and 2 for σ.
    """
    return 10 * (2 + 2 + 1), 10 * (2 + 2 + 1) + 2 + 2


@exercise(
    static_and_conditioned,
    hints=("Count the numbers of one layer first.", "u and w are vectors of the code's dimension; b is one number."),
    value=True,
)
def counts(answer: Any) -> str:
    """Judges the pair of numbers of a static flow and of the encoder's output for a conditioned one."""
    if not isinstance(answer, tuple | list) or len(answer) != 2:
        raise Wrong(f"{answer!r} is not a pair of numbers, (static, conditioned).")
    static = sum(parameter.numel() for parameter in Planar(LAYERS).transform(2).parameters())
    if answer[0] != static:
        raise Wrong(f"static = {answer[0]}: each layer has two vectors of 2 numbers, u and w, and one number, b.")
    if answer[1] == static:
        raise Wrong(f"conditioned = {answer[1]}: μ and σ of the Gaussian come from the encoder too.")
    if answer[1] != static + 4:
        raise Wrong(f"conditioned = {answer[1]}: all numbers of the flow, and the two vectors μ and σ.")
    return "A conditioned flow needs an encoder with many outputs; a static one costs the encoder nothing."


def both_losses(log_q: Tensor, log_prior: Tensor, log_likelihood: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """The annealed free energy weights the whole joint, KL warm-up the KL term alone."""
    annealed = log_q - beta * (log_prior + log_likelihood)
    warmed = beta * (log_q - log_prior) - log_likelihood
    return annealed.mean(), warmed.mean()


@exercise(
    both_losses,
    hints=(
        "Both are the negative ELBO, log q − log p(z) − log p(x | z), with β in different places.",
        "The first has β before log p(x, z) = log p(z) + log p(x | z). The second has β before log q − log p(z).",
    ),
)
def objectives(answer: Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]) -> str:
    """Judges a function that returns the annealed free energy and the loss of KL warm-up."""
    generator = torch.Generator().manual_seed(0)
    q, p, likelihood = torch.randn(3, 50, generator=generator) - torch.tensor([[1.0], [3.0], [5.0]])
    beta = 0.3
    found = answered(answer(q, p, likelihood, beta))
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise Wrong("return a pair, (annealed free energy, KL warm-up).")
    annealed, warmed = (float(value) for value in both_losses(q, p, likelihood, beta))
    slips = {
        "β weights log p(z) alone; the annealed free energy weights the joint, so log p(x | z) too.": (
            (q - beta * p - likelihood).mean()
        ),
        "β weights log p(x | z) alone; the joint contains the prior too.": (q - p - beta * likelihood).mean(),
        "β weights log q too; then the whole ELBO is scaled and its maximum stays where it was.": (
            beta * (q - p - likelihood).mean()
        ),
        "this is the KL warm-up; exchange the two.": warmed,
    }
    _judge_loss("annealed", found[0], annealed, slips)
    slips = {
        "β weights log p(z) only; the KL term is log q − log p(z).": (q - beta * p - likelihood).mean(),
        "β weights the likelihood; in KL warm-up the reconstruction keeps weight 1.": (
            q - p - beta * likelihood
        ).mean(),
        "this is the annealed free energy once more.": annealed,
    }
    _judge_loss("warm-up", found[1], warmed, slips)
    return "At β = 1 both are the negative ELBO; below it their best guides differ."


def _judge_loss(name: str, found: Tensor, right: float, slips: dict[str, Any]) -> None:
    if torch.as_tensor(found).dim():
        raise Wrong(f"{name}: the shape is {tuple(found.shape)}; average over the draws.")
    slips = {"the sign is inverted; a loss is minimized.": -right} | slips
    explained = {f"{name}: {reason}": value for reason, value in slips.items()}
    otherwise = f"{name}: {float(found):.4g} nats is not the loss. Start from the loss at β = 1."
    look_for_slips(found, right, explained, rtol=0, atol=1e-4, otherwise=otherwise)


def what_is_wrong() -> str:
    """With L[q_k] < L[q*] in place of L[q*], log p(x) − L[q_k] is too large and L[q_k] − L[q] too small.

    Their sum is right.
    """
    return "approximation too large"


@exercise(
    what_is_wrong,
    hints=(
        "Unfinished refinement stops at an ELBO below L[q*].",
        "This ELBO stands in both gaps, with opposite signs.",
    ),
    value=True,
)
def blame(answer: Any) -> str:
    """Judges the effect of an unfinished refinement on the two reported gaps."""
    if answer not in CHOICES:
        raise Wrong(f"{answer!r} is none of {', '.join(map(repr, CHOICES))}.")
    if answer == CHOICES[1]:
        raise Wrong("amortization is L[q*] − L[q]. If the refined ELBO is too low, this difference is too small.")
    if answer == CHOICES[2]:
        raise Wrong("their sum is right, but the refined ELBO stands between them and is too low.")
    parts = "; ".join(f"{steps} steps: {gap:.3f}" for steps, gap in reported_gaps().items())
    return f"Here the posterior is a Gaussian, so its approximation gap is 0. A Gaussian guide reports {parts} nats."


def reported_gaps(counted: Sequence[int] = (3, 30, 300)) -> dict[int, float]:
    """Computes the reported approximation gap, in nats, by number of steps, for a posterior in the family."""
    posterior = Normal(1.5, 0.4)
    loc, log_scale = torch.zeros((), requires_grad=True), torch.zeros((), requires_grad=True)
    adam, found = torch.optim.Adam([loc, log_scale], lr=0.05), {}
    for step in range(max(counted) + 1):
        gap = kl_divergence(Normal(loc, log_scale.exp()), posterior)
        if step in counted:
            found[step] = gap.item()
        adam.zero_grad()
        gap.backward()
        adam.step()
    return found
