"""Exercises of notebook 4: change of variables."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.distributions import Normal

from flowvae.course.exercise import Wrong, exercise
from flowvae.course.judging import look_for_slips, tensor_of

STANDARD = Normal(0.0, 1.0)


class Layer(Protocol):
    """A bijection in the generative direction, u → x."""

    def __call__(self, u: Tensor) -> Tensor:
        """Maps (N, D) to (N, D)."""

    def inv(self, x: Tensor) -> Tensor:
        """Maps back."""

    def log_abs_det_jacobian(self, before: Tensor, after: Tensor) -> Tensor:
        """Returns log|det ∂after/∂before|, shape (N,)."""


def log_density(x: Tensor) -> Tensor:
    """The inverse is u = log x − log(1 − x), so du/dx = 1/x + 1/(1 − x) = 1/(x (1 − x))."""
    return STANDARD.log_prob(x.logit()) - (x * (1 - x)).log()


@exercise(
    log_density,
    hints=(
        "First solve x = 1/(1 + exp(−u)) for u.",
        "u = log x − log(1 − x). Differentiate with respect to x, and add the logarithm of the derivative.",
    ),
)
def logit(answer: Callable[[Tensor], Tensor]) -> str:
    """Judges a function from x in (0, 1) to the log-density of x = 1/(1 + exp(−u)), u ~ N(0, 1)."""
    x = torch.tensor([0.05, 0.3, 0.55, 0.8, 0.97])
    found = tensor_of(answer(x), (5,), "one density for each number")
    base, log_slope = STANDARD.log_prob(x.logit()), -(x * (1 - x)).log()
    right = base + log_slope
    slips = {
        "this is the base density alone; add log|du/dx|.": base,
        "this adds log|dx/du|; the density of x needs log|du/dx|.": base - log_slope,
        "this is the density; the exercise asks for its logarithm.": right.exp(),
        "the base density is taken at x; take it at u.": STANDARD.log_prob(x) + log_slope,
        "the derivative of u = log x − log(1 − x) has two terms; one of them is missing.": base - x.log(),
        "the derivative of u = log x − log(1 − x) has two terms; 1/x is missing.": base - (1 - x).log(),
        "this adds the derivative du/dx itself; add its logarithm.": base + 1 / (x * (1 - x)),
    }
    look_for_slips(found, right, slips, unit="nats")
    return "This distribution is called logit-normal."


def log_density_polar(r: Tensor, theta: Tensor) -> Tensor:
    """The Jacobian ∂x/∂(r, θ) has the rows (cos θ, −r sin θ) and (sin θ, r cos θ), so its determinant is r.

    x is a function of (r, θ), the variable whose density is asked for, so log r is added. The density of x at that
    place is −(x₁² + x₂²)/2 − log 2π = −r²/2 − log 2π. θ does not occur: it is uniform.
    """
    return -(r**2) / 2 - math.log(2 * math.pi) + r.log() + 0 * theta


@exercise(
    log_density_polar,
    hints=(
        "Write down the 2×2 matrix ∂x/∂(r, θ) and its determinant.",
        "(r, θ) is the variable whose density is asked for, and x = x(r, θ) is distributed as N(0, I): "
        "log p(r, θ) = log N(x) + log|det ∂x/∂(r, θ)|.",
    ),
)
def polar(answer: Callable[[Tensor, Tensor], Tensor]) -> str:
    """Judges a function (r, θ) → log p(r, θ) for x = (r cos θ, r sin θ) ~ N(0, I)."""
    r, theta = torch.tensor([0.2, 0.7, 1.5, 3.0]), torch.tensor([0.1, 2.0, 4.0, 6.0])
    found = tensor_of(answer(r, theta), (4,), "one density for each pair")
    base, log_two_pi = -(r**2) / 2 - math.log(2 * math.pi), math.log(2 * math.pi)
    right = base + r.log()
    slips = {
        "this is the density of x per unit of area, and a ring's area grows with r.": base,
        "the log-determinant has the wrong sign: (r, θ) is the variable whose density is asked for.": base - r.log(),
        "the log-determinant belongs to the pair and is added once.": right + r.log(),
        "this does not integrate to one: a Gaussian has a factor 1/√(2π) in each of two dimensions.": (
            right + log_two_pi / 2
        ),
        "this is the density of r alone; θ is uniform on [0, 2π) and has a density too.": right + log_two_pi,
        "this is the density; the exercise asks for its logarithm.": right.exp(),
    }
    look_for_slips(found, right, slips, unit="nats")
    return "r and θ are independent. Inverted, this is how Box and Muller draw Gaussian numbers."


def flow_log_density(x: Tensor, layers: Sequence[Layer]) -> Tensor:
    """Undo the layers from the last to the first; each log-determinant is taken where its layer was applied."""
    total = torch.zeros(len(x))
    for layer in reversed(layers):
        before = layer.inv(x)
        total = total - layer.log_abs_det_jacobian(before, x)
        x = before
    return STANDARD.log_prob(x).sum(-1) + total


class Bend:
    """The map x₁ = u₁, x₂ = exp(0.8 tanh u₁) u₂ + u₁, or the same with the roles exchanged."""

    def __init__(self, kept: int) -> None:
        self.kept = kept

    def _join(self, kept: Tensor, moved: Tensor) -> Tensor:
        return torch.stack((kept, moved) if self.kept == 0 else (moved, kept), -1)

    def __call__(self, u: Tensor) -> Tensor:
        """Maps (N, 2) to (N, 2)."""
        kept, moved = u[..., self.kept], u[..., 1 - self.kept]
        return self._join(kept, (0.8 * kept.tanh()).exp() * moved + kept)

    def inv(self, x: Tensor) -> Tensor:
        """Maps back."""
        kept, moved = x[..., self.kept], x[..., 1 - self.kept]
        return self._join(kept, (moved - kept) * (-0.8 * kept.tanh()).exp())

    def log_abs_det_jacobian(self, before: Tensor, after: Tensor) -> Tensor:
        """Returns log|det ∂after/∂before|, shape (N,)."""
        return 0.8 * before[..., self.kept].tanh()


class Sinh:
    """The map x = sinh u in every coordinate; unlike for `Bend`, its log-determinant depends on where it is taken."""

    def __call__(self, u: Tensor) -> Tensor:
        """Maps (N, D) to (N, D)."""
        return u.sinh()

    def inv(self, x: Tensor) -> Tensor:
        """Maps back."""
        return x.asinh()

    def log_abs_det_jacobian(self, before: Tensor, after: Tensor) -> Tensor:
        """Returns log|det ∂after/∂before|, shape (N,)."""
        return before.cosh().log().sum(-1)


@exercise(
    flow_log_density,
    hints=(
        "To find u, undo the layer that was applied last first.",
        "The log-determinants given are of the generative direction: subtract them from the base density at u.",
        "Each one is taken between the point before its layer and the point after it.",
    ),
)
def layers(answer: Callable[[Tensor, Sequence[Layer]], Tensor]) -> str:
    """Judges a function (x, layers) → log p(x) of a flow, shape (N,)."""
    stack: list[Layer] = [Sinh(), Bend(0), Bend(1)]
    u = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    x, total, swapped = u, torch.zeros(50), torch.zeros(50)
    for layer in stack:
        before, x = x, layer(x)
        last = layer.log_abs_det_jacobian(before, x)
        total, swapped = total + last, swapped + layer.log_abs_det_jacobian(x, before)
    found = tensor_of(answer(x, stack), (50,), "sum the base density over the dimensions, once")
    base = STANDARD.log_prob(u).sum(-1)
    at_x = torch.stack([layer.log_abs_det_jacobian(x, x) for layer in stack]).sum(0)
    slips = {
        "this is the base density alone; subtract the log-determinants of all layers.": base,
        "the log-determinants given are of the generative direction: subtract them.": base + total,
        "only the last layer's log-determinant is in it; sum over all layers.": base - last,
        "the log-determinants are counted once per dimension; each belongs to the vector.": base - 2 * total,
        "each log-determinant belongs to the point where its layer is applied; you took all of them at x.": base - at_x,
        "the arguments are exchanged: log_abs_det_jacobian(before, after), before being the point nearer to u.": (
            base - swapped
        ),
        "the base density is taken at x; take it at u.": STANDARD.log_prob(x).sum(-1) - total,
        "undo the layer that was applied last first: go through the list backwards.": (
            flow_log_density(x, stack[::-1])
        ),
    }
    look_for_slips(found, base - total, slips, rtol=1e-3, atol=1e-3, unit="nats")
    return "This is all that the log_prob of a flow does."


MAPS: dict[str, Callable[[Tensor], Tensor]] = {
    "a": lambda u: torch.stack((2 * u[0], u[1] / 2)),
    "b": lambda u: torch.stack((u[0], u[1] + u[0].sin())),
    "c": lambda u: torch.stack((u[0].exp(), (-u[0]).exp() * u[1])),
    "d": lambda u: torch.stack((u[0] / 2, u[1] / 2)),
    "e": lambda u: torch.stack((u[0].exp() * u[0], (-u[0]).exp() * u[1])),
}


def area_factor(move: Callable[[Tensor], Tensor], u: Tensor) -> float:
    """Computes |det ∂x/∂u| at one point."""
    return torch.autograd.functional.jacobian(move, u).det().abs().item()


def volume_preserving() -> set[str]:
    """The maps whose Jacobian has |det| = 1 everywhere.

    a: diagonal, 2 · ½ = 1. b: triangular with ones on the diagonal, 1; entries below the diagonal do not matter.
    c: triangular, exp(u₁) · exp(−u₁) = 1. d: ½ · ½ = ¼.
    e: triangular, (1 + u₁) exp(u₁) · exp(−u₁) = 1 + u₁, which is 1 only at u₁ = 0.
    """
    probes = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    return {name for name, move in MAPS.items() if all(abs(area_factor(move, point) - 1) < 1e-4 for point in probes)}


@exercise(
    volume_preserving,
    hints=(
        "Write down the Jacobian of each map. Some are not diagonal, but all are triangular.",
        "The determinant of a triangular matrix is the product of its diagonal; |det| = 1 must hold at every u.",
    ),
    value=True,
)
def volume(answer: set[str] | str) -> str:
    """Judges the choice of volume-preserving maps among five: a set of letters, or a string of them."""
    chosen = {letter.lower() for letter in answer if letter.isalpha()}
    unknown = chosen - MAPS.keys()
    if unknown:
        raise Wrong(f"there is no map {sorted(unknown)[0]!r}; the maps are {', '.join(MAPS)}.")
    point = torch.tensor([1.0, 0.5])
    right = volume_preserving()
    for letter in sorted(chosen - right):
        size = area_factor(MAPS[letter], point)
        raise Wrong(f"{letter} does not preserve volume: at u = (1, 0.5) it has |det| = {size:.3g}.")
    if chosen < right:
        raise Wrong("these are not all. Off-diagonal entries of a triangular Jacobian do not matter.")
    return "A map that preserves volume moves density without raising or lowering it."
