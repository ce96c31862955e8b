"""Metropolis-adjusted Langevin chains."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["langevin"]


def langevin(log_density: Callable[[Tensor], Tensor], z: Tensor, steps: int, step_size: float) -> Tensor:
    """Run a Metropolis-adjusted Langevin chain from each of the points (n, D), without a gradient; shape (n, D).

    A step proposes z' = z + (h²/2) ∇log p(z) + h ε with ε ~ N(0, I), and accepts it with probability
    min(1, p(z') k(z | z') / (p(z) k(z' | z))) with k the density of proposals. So p is stationary for any step size h,
    but large steps are rarely accepted.

    Args:
        log_density: log p up to a constant, in nats, of points (n, D), shape (n,).
        z: starting points.
        steps: number of steps, with one gradient each.
        step_size: h, in units of z.

    References:
        Roberts & Tweedie (1996), "Exponential convergence of Langevin distributions and their discrete approximations".
    """
    z = z.detach()
    value, gradient = _with_gradient(log_density, z)
    for _ in range(steps):
        noise = torch.randn_like(z)
        moved = z + step_size**2 / 2 * gradient + step_size * noise
        moved_value, moved_gradient = _with_gradient(log_density, moved)
        back = (z - moved) / step_size - step_size / 2 * moved_gradient  # the noise of the reverse move
        log_ratio = moved_value - value + (noise.square() - back.square()).sum(-1) / 2
        accepted = torch.rand_like(log_ratio).log() < log_ratio  # false for NaN
        value = torch.where(accepted, moved_value, value)
        z, gradient = (
            torch.where(accepted.unsqueeze(-1), new, old) for new, old in ((moved, z), (moved_gradient, gradient))
        )
    return z


def _with_gradient(log_density: Callable[[Tensor], Tensor], z: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        point = z.clone().requires_grad_()
        value = log_density(point)
        (gradient,) = torch.autograd.grad(value.sum(), point)
    return value.detach(), gradient
