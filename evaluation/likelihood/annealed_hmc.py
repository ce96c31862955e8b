"""Annealed Hamiltonian Monte Carlo from a tractable start to the posterior, for AIS and BDMC."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor

from flowvae.core.errors import FlowvaeError, check_choice, check_int
from flowvae.core.memory import check_memory
from flowvae.core.seeds import random_state_kept
from flowvae.data.batch import Batch
from flowvae.evaluation.likelihood.latent_vector import LatentDistribution, LatentVector, check_unbounded
from flowvae.evaluation.likelihood.sampler import draws_at_once
from flowvae.inference import Replay
from flowvae.inference.log_density import log_joint, sample_latents

__all__ = ["AnnealedHMC", "AnnealingPath", "Sweep", "schedule", "sweep"]

STARTS = ("gaussian", "guide", "prior")
MOMENTS = 256  # draws for the mean and the standard deviation of a guide
WIDEN = 1.2  # factor on the Gaussian's scale: tails lighter than the posterior's give weights of infinite variance
PILOTS = 4  # chains that adapt the step size and are then discarded
# The optimum 0.65 for long chains in many dimensions (Neal 2011) gives steps near the limit of stability in few
# dimensions. On linear-Gaussian models of 3 and 16 latents, 0.9 gave about 3 and 8 times less squared error.
ACCEPTANCE = 0.9
GAIN = 1.0  # how fast the logarithm of the step size follows the acceptance
STATES = 12  # tensors of the shape of all chains at a time: two states of three each, momentum, and temporaries
JITTER = 0.5  # random share of the step size, against periodic trajectories
SHARPNESS = 4.0  # of the sigmoidal schedule (Grosse et al. 2015)


@dataclass(frozen=True)
class AnnealedHMC:
    """Settings of the chains between a start r(z) and the posterior, along π_β ∝ r(z)^{1−β} p(x, z)^β.

    Args:
        chains: number of chains for each data point.
        temperatures: T, number of steps of β from 0 to 1; T = 1 is importance sampling from r.
        leapfrog: steps of an HMC trajectory; there is one trajectory per temperature.
        start: r. "gaussian": independent Gaussians with the mean of the guide's draws and 1.2 times their
            standard deviation, cheap and fair to every family of guides. "guide": q(z | x) itself, whose density
            is needed at values that it did not draw: D passes for an IAF, root finding for planar flows. "prior":
            p(z), the longest path.

    Raises:
        FlowvaeError: for fewer than 2 chains, 1 temperature or 1 leapfrog step, or an unknown start.
    """

    chains: int = 16
    temperatures: int = 500
    leapfrog: int = 5
    start: str = "gaussian"

    def __post_init__(self) -> None:
        check_int(self, "chains", least=2)
        check_int(self, "temperatures")
        check_int(self, "leapfrog")
        check_choice(self, "start", STARTS)


def schedule(temperatures: int) -> list[float]:
    """Temperatures β_0 = 0 < … < β_T = 1 from a shifted and scaled sigmoid, densest at both ends."""
    check_memory(f"temperatures = {temperatures}", 40 * temperatures, "use fewer")  # a tensor and a list of floats
    grid = torch.linspace(-SHARPNESS, SHARPNESS, temperatures + 1, dtype=torch.float64).sigmoid()
    betas: list[float] = ((grid - grid[0]) / (grid[-1] - grid[0])).tolist()
    return [0.0, *betas[1:-1], 1.0]


class AnnealingPath:
    """The distributions π_β between a start and the posterior of B data points, over vectors of all latent sites.

    Args:
        model: Pyro model whose latent sites are continuous, unbounded and in one plate of the data.
        guide: Pyro guide with the same sites.
        batch: B data points.
        start: see `AnnealedHMC`.

    Raises:
        FlowvaeError: if the guide's draws are not finite, or a latent site is not on all of R^n.
    """

    @torch.no_grad()
    def __init__(self, model: Callable[..., Any], guide: Callable[..., Any], batch: Batch, start: str) -> None:
        self.model = model
        self.batch = batch
        with random_state_kept():
            values = sample_latents(guide, batch, 1)
        self.vector = LatentVector.of(model, batch, values)
        posterior = LatentDistribution(guide, batch, self.vector, values)
        codes = posterior.sample((MOMENTS,))
        if not codes.isfinite().all():
            raise FlowvaeError("guide: some of its draws are not finite; train it again, with a smaller learning rate.")
        # a guide that has collapsed onto a point must still give a positive scale
        spread = codes.std(0).clamp_min(torch.finfo(codes.dtype).eps)
        self.start: Any
        if start == "gaussian":
            self.start = dist.Normal(codes.mean(0), WIDEN * spread).to_event(1)
        elif start == "guide":
            check_unbounded("guide", posterior.nodes)
            self.start = posterior
        else:
            self.start = LatentDistribution(model, batch, self.vector, sample_latents(model, batch, 1))
        self._precisions = self.start.sample((MOMENTS,)).std(0) ** -2, spread**-2
        self._evaluated = Replay(self._evaluate)

    @torch.no_grad()
    def draw(self, rows: int) -> Tensor:
        """Draw vectors from the start, shape (rows, B, D)."""
        values = rows * len(self.batch) * sum(shape.numel() for shape in self.vector.shapes.values())
        check_memory(f"chains = {rows - PILOTS}", STATES * values * self.batch.args[0].dtype.itemsize, "use fewer")
        codes: Tensor = self.start.sample((rows,))
        return codes

    def scale(self, beta: float) -> Tensor:
        """Standard deviations of π_β if start and guide were independent Gaussians, shape (B, D)."""
        first, last = self._precisions
        return ((1 - beta) * first + beta * last).rsqrt()

    def at(self, z: Tensor) -> Chains:
        """Evaluate the densities and gradients of vectors (R, B, D), a block of chains at a time."""
        found = torch.cat([self._evaluated(part) for part in z.split(draws_at_once(self.batch, len(z)))])
        log_start, tilt, start_slope, tilt_slope = found.split([1, 1, z.shape[-1], z.shape[-1]], dim=-1)
        return Chains(z, log_start.squeeze(-1), tilt.squeeze(-1), start_slope, tilt_slope)

    @torch.enable_grad()
    def _evaluate(self, z: Tensor) -> Tensor:
        """The densities and gradients of `Chains` in one tensor, (R, B, 2 + 2 D)."""
        # gradients with respect to z alone: none of any parameter is computed
        z = z.detach().requires_grad_()
        log_start = self.start.log_prob(z)
        tilt = log_joint(self.model, self.batch, self.vector.split(z)) - log_start
        (start_slope,) = torch.autograd.grad(log_start.sum(), z, retain_graph=True)
        (tilt_slope,) = torch.autograd.grad(tilt.sum(), z)
        logs = torch.stack([log_start.detach(), tilt.detach()], dim=-1)
        return torch.cat([logs, start_slope, tilt_slope], dim=-1)


class Chains(NamedTuple):
    """The states of R chains for each of B data points.

    Up to a constant log π_β = log_start + β tilt, with gradient start_slope + β tilt_slope, so one evaluation serves
    every β.
    """

    z: Tensor  # (R, B, D), all latent sites
    log_start: Tensor  # (R, B), log r(z)
    tilt: Tensor  # (R, B), log p(x, z) − log r(z)
    start_slope: Tensor  # (R, B, D)
    tilt_slope: Tensor  # (R, B, D)

    def log_density(self, beta: float) -> Tensor:
        return self.log_start + beta * self.tilt

    def slope(self, beta: float) -> Tensor:
        return self.start_slope + beta * self.tilt_slope


@dataclass(frozen=True)
class Sweep:
    """The result of one pass of the chains along the path.

    Args:
        log_weight: log of an unbiased estimate of Z_last / Z_first for each chain, float64, shape (R, B).
        acceptance: mean acceptance probability of HMC, shape (B,); NaN without transitions.
        steps: the step sizes in the order of the transitions, shape (T − 1, B).
    """

    log_weight: Tensor
    acceptance: Tensor
    steps: Tensor


@torch.no_grad()
def sweep(
    path: AnnealingPath,
    z: Tensor,
    betas: list[float],
    leapfrog: int,
    steps: Tensor | None = None,
    tick: Callable[[], Any] = lambda: None,
) -> Sweep:
    """Move chains from π at betas[0] to π at betas[-1], with an HMC transition at every β between.

    The estimate is unbiased only if the kernels of a chain do not depend on that chain. So only the first `PILOTS`
    chains adapt the step size, and only the other chains are in the result. Adapting each chain to its own past would
    save the pilots but bias the estimate.

    Args:
        path: the distributions.
        z: draws from π at betas[0], shape (R, B, D), among them `PILOTS` pilots unless steps are given.
        betas: values of β, ascending or descending.
        leapfrog: steps of an HMC trajectory.
        steps: given step sizes, shape (T − 1, B); None: the pilots adapt them.
        tick: called after every temperature.

    Raises:
        FlowvaeError: for log-weights that are NaN.

    References:
        Neal (2001), "Annealed importance sampling"; Neal (2011), "MCMC using Hamiltonian dynamics".
    """
    chains = path.at(z)
    first = PILOTS if steps is None else 0
    log_weight = torch.zeros(z.shape[:-1], dtype=torch.float64, device=z.device)
    step = z.new_full((z.shape[1],), z.shape[-1] ** -0.25)
    used: list[Tensor] = []
    accepted = []
    for number, (beta, following) in enumerate(pairwise(betas)):
        log_weight += (following - beta) * chains.tilt.double()
        if number < len(betas) - 2:  # a move after the last weight has no effect
            step = step if steps is None else steps[number]
            used.append(step)
            chains, acceptance = _transition(path, chains, following, step, leapfrog)
            accepted.append(acceptance[first:].mean(0))
            if steps is None:
                step = step * (GAIN * (acceptance[:PILOTS].mean(0) - ACCEPTANCE)).exp()
        tick()
    if log_weight.isnan().any():
        raise FlowvaeError("log p(x, z) is NaN for some codes; check the model's parameters and the data.")
    return Sweep(
        log_weight[first:],
        torch.stack(accepted).mean(0) if accepted else torch.full_like(step, torch.nan),
        torch.stack(used) if used else step.new_empty(0, len(step)),
    )


def _transition(path: AnnealingPath, chains: Chains, beta: float, step: Tensor, leapfrog: int) -> tuple[Chains, Tensor]:
    """Run one HMC trajectory per chain, in units of the path's scale; return the new state and the acceptance."""
    scale = path.scale(beta)
    jitter = 1 - JITTER * torch.rand_like(chains.tilt)
    size = (step * jitter).unsqueeze(-1)
    momentum = torch.randn_like(chains.z)
    energy = chains.log_density(beta) - 0.5 * momentum.square().sum(-1)
    end = chains
    for _ in range(leapfrog):
        momentum = momentum + 0.5 * size * scale * end.slope(beta)
        end = path.at(end.z + size * scale * momentum)
        momentum = momentum + 0.5 * size * scale * end.slope(beta)
    change = end.log_density(beta) - 0.5 * momentum.square().sum(-1) - energy
    # reject trajectories with densities that are not finite
    acceptance = change.clamp(max=0).exp().nan_to_num(nan=0.0)
    moves = torch.rand_like(acceptance) < acceptance
    moved = moves.unsqueeze(-1)
    merged = (torch.where(moves if old.ndim == 2 else moved, new, old) for old, new in zip(chains, end, strict=True))
    return Chains(*merged), acceptance
