"""Chains that move step by step from a distribution one can draw from to the posterior: the engine of AIS and BDMC."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from flowvae.core.errors import FlowvaeError, check_choice, check_int
from flowvae.core.memory import check_memory

__all__ = ["AnnealedHMC", "AnnealingPath", "Sweep", "schedule", "sweep"]

STARTS = ("gaussian", "guide", "prior")
MOMENTS = 256  # draws behind the mean and the standard deviation of a guide
WIDEN = 1.2  # of the fitted Gaussian: tails lighter than the posterior's would make the weights' variance infinite
PILOTS = 4  # chains that set the step size and are then thrown away
# The 0.65 that is best for long chains in many dimensions (Neal 2011) takes steps near the limit of stability when
# the codes are few. On linear-Gaussian models of 3 and 16 latents, 0.9 gave about 3 and 8 times less squared error.
ACCEPTANCE = 0.9
GAIN = 1.0  # how fast the logarithm of the step size follows the acceptance
JITTER = 0.5  # share of the step size that is random, so that no trajectory closes on itself
SHARPNESS = 4.0  # of the sigmoidal schedule (Grosse et al. 2015)


@dataclass(frozen=True)
class AnnealedHMC:
    """Settings of the chains between a start r(z) and the posterior, along π_β ∝ r(z)^{1−β} p(x, z)^β.

    Args:
        chains: for each datum.
        temperatures: T, how many steps β takes from 0 to 1; 1 is importance sampling from the start.
        leapfrog: steps of one HMC trajectory; there is one trajectory a temperature.
        start: r. "gaussian": independent Gaussians with the mean of the guide's draws and 1.2 times their
            standard deviation, cheap and equally good for every family of guides. "guide": q(z | x) itself,
            whose density is needed at foreign values: D passes for an IAF, a root to find for planar. "prior":
            p(z), the longest way.

    Raises:
        FlowvaeError: for less than 2 chains, 1 temperature or 1 leapfrog step, or another start.
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
    """β_0 = 0 < … < β_T = 1, closest to each other at both ends: a sigmoid, shifted and scaled."""
    check_memory(f"temperatures = {temperatures}", 40 * temperatures, "use fewer")  # a tensor, and a list of numbers
    grid = torch.linspace(-SHARPNESS, SHARPNESS, temperatures + 1, dtype=torch.float64).sigmoid()
    betas: list[float] = ((grid - grid[0]) / (grid[-1] - grid[0])).tolist()
    return [0.0, *betas[1:-1], 1.0]


class AnnealingPath:
    """The distributions π_β between a start and the posterior of B data.

    Args:
        model: Pyro model with sites "z" and "x" in one plate.
        guide: has `posterior(x)`.
        x: data, shape (B, D).
        start: see `AnnealedHMC`.

    Raises:
        FlowvaeError: if the guide's draws are not finite.
    """

    def __init__(self, model: Callable[..., Any], guide: Any, x: Tensor, start: str) -> None:
        self.model = model
        self.x = x
        with torch.no_grad():
            posterior = guide.posterior(x)
            codes = posterior.sample((MOMENTS,))
            if not codes.isfinite().all():
                raise FlowvaeError("guide: its draws are not all finite; train it anew, or with a smaller step.")
            # a guide that has collapsed onto a point still gives a scale to start from
            spread = codes.std(0).clamp_min(torch.finfo(codes.dtype).eps)
            self.start: Any
            if start == "gaussian":
                self.start = dist.Normal(codes.mean(0), WIDEN * spread).to_event(1)
            elif start == "guide":
                self.start = posterior
            else:
                self.start = poutine.trace(model).get_trace(x).nodes["z"]["fn"]
            self._precisions = self.start.sample((MOMENTS,)).std(0) ** -2, spread**-2

    @torch.no_grad()
    def draw(self, rows: int) -> Tensor:
        """Codes from the start, shape (rows, B, latent)."""
        check_memory(f"chains = {rows - PILOTS}", rows * self.x.nbytes, "use fewer")
        codes: Tensor = self.start.sample((rows,))
        return codes

    def scale(self, beta: float) -> Tensor:
        """Standard deviations of π_β, were start and guide independent Gaussians; shape (B, latent)."""
        first, last = self._precisions
        return ((1 - beta) * first + beta * last).rsqrt()

    def at(self, z: Tensor) -> Chains:
        """The chains' codes (R, B, latent) with what the path knows about them."""
        # gradients with respect to z alone: nothing is accumulated in any parameter
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            log_start = self.start.log_prob(z)
            tilt = _log_joint(self.model, self.x, z) - log_start
            (start_slope,) = torch.autograd.grad(log_start.sum(), z, retain_graph=True)
            (tilt_slope,) = torch.autograd.grad(tilt.sum(), z)
        return Chains(z.detach(), log_start.detach(), tilt.detach(), start_slope, tilt_slope)


class Chains(NamedTuple):
    """Where R chains for each of B data are.

    log π_β = log_start + β tilt up to a constant, and its gradient is start_slope + β tilt_slope: one evaluation
    serves every β.
    """

    z: Tensor  # (R, B, latent)
    log_start: Tensor  # (R, B), log r(z)
    tilt: Tensor  # (R, B), log p(x, z) − log r(z)
    start_slope: Tensor  # (R, B, latent)
    tilt_slope: Tensor  # (R, B, latent)

    def log_density(self, beta: float) -> Tensor:
        return self.log_start + beta * self.tilt

    def slope(self, beta: float) -> Tensor:
        return self.start_slope + beta * self.tilt_slope


@dataclass(frozen=True)
class Sweep:
    """What chains bring back from one way along the path.

    Args:
        log_weight: log of an unbiased estimate of Z_last / Z_first for each chain, float64, shape (R, B).
        acceptance: mean acceptance probability of HMC, shape (B,); NaN where there was no transition.
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
    """Take chains from π at betas[0] to π at betas[-1], with an HMC transition at every β between.

    Exactness asks that a chain's kernels do not depend on that chain. So the first `PILOTS` chains alone set the
    step size, from their own past; the others follow it, and only they are in the result. This costs PILOTS chains and
    no bias. Adapting each chain to its own past would cost nothing and bias the estimate.

    Args:
        path: the distributions.
        z: draws from π at betas[0], shape (R, B, latent), among them `PILOTS` pilots unless steps are given.
        betas: ascending or descending.
        leapfrog: steps of a trajectory.
        steps: step sizes known beforehand, shape (T − 1, B); none: the pilots find them.
        tick: called after every temperature.

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
        if number < len(betas) - 2:  # after the last weight no move can matter
            step = step if steps is None else steps[number]
            used.append(step)
            chains, acceptance = _transition(path, chains, following, step, leapfrog)
            accepted.append(acceptance[first:].mean(0))
            if steps is None:
                step = step * (GAIN * (acceptance[:PILOTS].mean(0) - ACCEPTANCE)).exp()
        tick()
    if log_weight.isnan().any():
        raise FlowvaeError("log p(x, z): it is NaN for some codes; check the model's parameters and the data.")
    return Sweep(
        log_weight[first:],
        torch.stack(accepted).mean(0) if accepted else torch.full_like(step, torch.nan),
        torch.stack(used) if used else step.new_empty(0, len(step)),
    )


def _transition(path: AnnealingPath, chains: Chains, beta: float, step: Tensor, leapfrog: int) -> tuple[Chains, Tensor]:
    """One HMC trajectory for every chain, in units of the path's scale; its end and its acceptance probability."""
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
    # a trajectory that left the region where numbers are finite is refused
    acceptance = change.clamp(max=0).exp().nan_to_num(nan=0.0)
    moves = torch.rand_like(acceptance) < acceptance
    moved = moves.unsqueeze(-1)
    merged = (torch.where(moves if old.ndim == 2 else moved, new, old) for old, new in zip(chains, end, strict=True))
    return Chains(*merged), acceptance


def _log_joint(model: Callable[..., Any], x: Tensor, z: Tensor) -> Tensor:
    """Log p(x, z) of codes (R, B, latent) and data (B, D), shape (R, B)."""
    conditioned = poutine.condition(pyro.plate("chains", len(z), dim=-2)(model), {"z": z})
    trace = poutine.trace(conditioned).get_trace(x)
    trace.compute_log_prob(lambda name, site: name in ("x", "z"))
    log_prob: Tensor = trace.nodes["x"]["log_prob"] + trace.nodes["z"]["log_prob"]
    return log_prob
