"""Exercises of notebook 10: slips in layers and their costs (a planar layer, a residual layer, passes of a network)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.functional import jacobian
from torch.nn.functional import softplus

from flowvae.course.exercise import Wrong, answered, exercise
from flowvae.course.judging import line, look_for_slips, tensor_of
from flowvae.course.slips import points


def wrong_lines_of_the_planar_layer() -> tuple[int, int]:
    """Line 3 divides by ‖w‖ instead of ‖w‖². Line 6 multiplies number by number: det(I + û ψᵀ) = 1 + ψᵀû."""
    return 3, 6


planar_lines = line(
    "planar_lines",
    wrong_lines_of_the_planar_layer,
    {
        1: "wᵀu is a number",
        2: "softplus is positive, so m > −1",
        4: "tanh is applied to the height wᵀz + b",
        5: "tanh' = 1 − tanh², times w: the gradient of h",
    },
    "Compute wᵀû for the û of line 3. And det(I + a bᵀ) = 1 + bᵀa.",
)


def constrained(u: Tensor, w: Tensor, slope: float) -> Tensor:
    """wᵀû = (softplus(L wᵀu) − 1) / L > −1/L; softplus(a) ≈ a leaves large wᵀu nearly as they are."""
    inner = w @ u
    return u + ((softplus(slope * inner) - 1) / slope - inner) * w / (w @ w)


@exercise(
    constrained,
    hints=(
        "Write û = u + c w. Which c gives wᵀû a value that you choose?",
        "Choose wᵀû = m(L wᵀu)/L with m(a) = −1 + softplus(a), which is above −1.",
        "c = (m(L wᵀu)/L − wᵀu) / ‖w‖².",
    ),
)
def bound(answer: Callable[[Tensor, Tensor, float], Tensor]) -> str:
    """Judges û for an activation whose slope lies in (0, L]."""
    generator = torch.Generator().manual_seed(0)
    least, folds = {}, 0
    for slope in (1.0, 3.0, 0.25):
        reached = []
        for size in (0.3, 1.0, 3.0):
            for _ in range(60):
                u, w = (torch.randn(3, generator=generator, dtype=torch.float64) for _ in range(2))
                w = size * w
                inner = (24 * torch.rand((), generator=generator, dtype=torch.float64) - 12) / slope**0.5
                u = u + (inner - w @ u) * w / (w @ w)  # so that wᵀu is this number
                u_hat = tensor_of(answer(u, w, slope), (3,), "a vector like u")
                reached.append(slope * _reach(u, w, u_hat, slope))
                if slope == 1.0:
                    folds += (w @ (u + (softplus(w @ u) - 1 - w @ u) * w / w.norm()) <= -1).item()
        least[slope] = min(reached)
        if least[slope] > -0.95:
            raise Wrong(
                f"with L = {slope}, L wᵀû never goes below {least[slope]:.2f}, but all above −1 is allowed. Your û "
                "forbids too much; does it contain the slope, and the −1?"
            )
        if max(reached) < 4:
            raise Wrong(f"with L = {slope}, L wᵀû never exceeds {max(reached):.2f}; a large wᵀu is allowed.")
    return f"As seen, {folds} of 180 random layers with L = 1 fold; none of yours folds, for L = 1, 3 and ¼."


def _reach(u: Tensor, w: Tensor, u_hat: Tensor, slope: float) -> float:
    """Returns wᵀû, after checking that it is above the bound and û − u is along w."""
    a, square, step = w @ u, w @ w, u_hat - u
    if (step - (step @ w) * w / square).norm() > 1e-5 * (1 + step.norm()):
        raise Wrong("û − u is not along w. Only that direction changes wᵀû.")
    reach = (w @ u_hat).item()
    if reach > -1 / slope:
        return reach
    kept = (softplus(slope * a) - 1) / slope
    for reason, value in (
        ("divide by ‖w‖², not by ‖w‖", u + (kept - a) * w / w.norm()),
        ("divide by ‖w‖², not by ‖w‖, and use L", u + (softplus(a) - 1 - a) * w / w.norm()),
        ("this is right for L = 1 only, since the slope is missing", u + (softplus(a) - 1 - a) * w / square),
        ("the bound is −1/L, not −L", u + (softplus(a) - slope - a) * w / square),
        (
            "the bound is strict, since at −1/L the determinant has a zero",
            u + (a.clamp_min(-1 / slope) - a) * w / square,
        ),
        ("nothing is constrained", u),
    ):
        if torch.allclose(u_hat, value):
            raise Wrong(f"{reason}: with L = {slope}, wᵀû = {reach:.3f}, which must be above {-1 / slope:.3f}.")
    raise Wrong(f"with L = {slope}, wᵀû = {reach:.3f}, which must be above {-1 / slope:.3f}. The layer folds.")


def planar_log_det(z: Tensor, u_hat: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """By the matrix determinant lemma, det(I + û ψᵀ) = 1 + ψᵀû with ψ = h'(wᵀz + b) w."""
    return torch.log1p((1 - torch.tanh(z @ w + b) ** 2) * (w @ u_hat))


@exercise(
    planar_log_det,
    hints=("ψᵀû is an inner product, one number for each z.", "log(1 + h' wᵀû) with h' = 1 − tanh²(wᵀz + b)."),
)
def determinant(answer: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> str:
    """Judges log|det| of a planar layer, (z, û, w, b) → (N,)."""
    u, w, b = (torch.tensor(v, dtype=torch.float64) for v in ([1.5, -0.4, 2.0], [0.8, -0.5, 0.3], 0.2))
    z = points(50, 3, scale=1.0)
    h, inner = torch.tanh(z @ w + b), w @ u
    prime = 1 - h**2

    def layer(v: Tensor) -> Tensor:
        return v + torch.tanh(v @ w + b) * u

    right = torch.linalg.slogdet(torch.stack([jacobian(layer, v) for v in z])).logabsdet
    found = tensor_of(answer(z, u, w, b), (50,), "the determinant 1 + h' wᵀû is a number, not a matrix")
    slips = {
        "this is the formula as seen: h' w times û number by number. The lemma has the inner product.": (
            (1 + prime[:, None] * w * u).abs().log().sum(-1)
        ),
        "the 1 is missing.": (prime * inner).abs().log(),
        "tanh itself is in it; the slope is tanh' = 1 − tanh².": (1 + h * inner).abs().log(),
        "this is the determinant; its logarithm is asked for.": right.exp(),
        "the sign: this is the log-determinant of the inverse.": -right,
        "b is missing in the height.": (1 + (1 - torch.tanh(z @ w) ** 2) * inner).log(),
    }
    look_for_slips(found, right, slips, unit="nats")
    return "It agrees with automatic differentiation at 50 points."


def inverse(y: Tensor, g: Callable[[Tensor], Tensor]) -> Tensor:
    """The fixed point of z ↦ y − g(z). The map contracts as g does: an error shrinks by Lip(g) per step at least."""
    z = y
    for _ in range(500):
        z = y - g(z)
    return z


@exercise(
    inverse,
    hints=(
        "y = z + g(z) says that z = y − g(z).",
        "Begin with z = y and repeat z ← y − g(z). With Lip(g) = 0.9 an error shrinks by at least the factor 0.9.",
    ),
)
def fixed_point(answer: Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor]) -> str:
    """Judges a function (y, g) → z with z + g(z) = y, for g with Lip(g) ≤ 0.9."""
    z = points(100, 2)

    def g(v: Tensor) -> Tensor:
        return 0.9 * torch.sin(v)

    y = z + g(z)
    found = tensor_of(answer(y, g), (100, 2), "one vector for each y")
    slips = {
        "this is y − g(y), one step of the iteration.": y - g(y),
        "this is z + g(z) at z = y, the layer once more.": y + g(y),
        "nothing is inverted: this is y.": y,
    }
    rest = (found + g(found) - y).abs().max().item()
    if 1e-4 < rest < 0.3:
        raise Wrong(
            f"z + g(z) differs from y by up to {rest:.1g}. Take some hundred steps: with Lip(g) = 0.9 the error "
            "shrinks by the factor 0.9 per step at worst."
        )
    look_for_slips(found, z, slips, rtol=1e-4, atol=1e-4)
    return "The inverse exists and is unique, because z ↦ y − g(z) is a contraction."


def passes_of_three_transforms() -> dict[str, int]:
    """A prior scores a given z in training: one pass per transform of a MAF. A guide draws, and scores its own draw.

    New images need z ~ p(z): D = 8 passes for each of the MAF's three transforms. With N(0, I) as prior, new images do
    not use the guide's flow.
    """
    return {
        "MAF prior, training step": 3,
        "IAF guide, training step": 3,
        "MAF prior, new images": 3 * 8,
        "IAF guide, new images": 0,
    }


@exercise(
    passes_of_three_transforms,
    hints=(
        "Training: the prior needs log p(z) of a z that the encoder drew; the guide a draw with its density.",
        "Generation draws z from the prior and decodes it. Which of the two flows is needed?",
    ),
    value=True,
)
def passes(answer: Mapping[str, Any]) -> str:
    """Judges the numbers of network passes of a flow in the prior and of a flow in the guide."""
    for name, right in passes_of_three_transforms().items():
        given = answered(answer.get(name))
        if given == right:
            continue
        if name == "IAF guide, new images":
            raise Wrong(f"{name}: {given}, but no encoder and no guide takes part when new images are drawn.")
        if given == 8 * right or 8 * given == right:
            raise Wrong(f"{name}: {given} is the other direction of this flow.")
        if given == 100 * right:
            raise Wrong(f"{name}: {given}, but one pass serves the whole batch of 100 images.")
        raise Wrong(f"{name}: {given} is not the number. There are three transforms, and D = 8.")
    return "“The same cost” is true of a training step. New images cost 24 passes with the MAF prior, 0 with the guide."
