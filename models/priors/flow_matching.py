"""Flow-matching prior: a velocity field, fitted by regression, with the exact density of its ODE."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn.functional import linear, silu
from zuko.distributions import NormalizingFlow
from zuko.lazy import LazyDistribution
from zuko.transforms import FreeFormJacobianTransform
from zuko.utils import odeint

from flowvae.core.errors import FlowvaeError, check_number, check_widths, shown
from flowvae.core.parts import Cost, PriorSpec
from flowvae.core.seeds import seeded
from flowvae.flows.spec import standard_normal
from flowvae.networks import in_eval_mode

__all__ = ["FlowMatching", "FlowMatchingPrior", "Velocity"]

LEAST = 7  # evaluations of the network that the adaptive solver makes for the identity
FREQUENCIES = 3  # of the embedding of time
CHECKED = 16  # draws on which the error of the solver is measured
SCALE = 0.1  # weight of the log-determinant in the solver's error
EXACT = 1e-9  # relative tolerance of the reference in float64


@dataclass(frozen=True)
class FlowMatching(PriorSpec, name="flow-matching"):
    r"""Flow-matching prior: z is the solution of dz/dt = v(z, t) at t = 1, started at z_0 ~ N(0, I).

    A second stage fits v to codes z_1 by regression, without solving an ODE: it minimizes
    E ‖v(z_t, t) − (z_1 − z_0)‖² with z_t = (1 − t) z_0 + t z_1 and t uniform on (0, 1). At the optimum,
    v(z, t) = E[z_1 − z_0 | z_t = z], and z has the distribution of the codes. The loss is a squared distance, not nats;
    the best epoch has the smallest loss on the validation codes.

    The density is that of the ODE, log p(z_1) = log N(z_0; 0, I) − ∫ tr ∂v/∂z dt. The network has two hidden layers, so
    that the trace is a bilinear form in their slopes: exact, at the cost of one more evaluation for any D. The solver
    (Dormand-Prince) is adaptive and chooses its steps for the whole batch. At the default tolerance, the error of
    log p(z) is about 0.001 nats; every metric reports the error measured on draws. `cost` is that of the untrained
    prior; a trained one takes about 10 times as many evaluations.

    Trained jointly, or fine-tuned, it maximizes the ELBO with this exact density, as a continuous normalizing flow
    (`cnf`) does. The matching loss cannot replace −log p(z) there: weighted by t/(1 − t), and up to constants, it
    bounds −log p(z) of a diffusion with the same v (Song et al. 2021), whose distribution differs from that of the ODE.
    Vahdat et al. (2021) train with this bound.

    Args:
        hidden_features: widths of the two hidden layers of v.
        tolerance: relative tolerance of the solver; the absolute tolerance is a tenth of it.

    Raises:
        FlowvaeError: for another number of hidden layers, or a tolerance out of range.

    References:
        Lipman, Chen, Ben-Hamu, Nickel & Le (2023), "Flow Matching for Generative Modeling"; Song, Durkan, Murray &
        Ermon (2021), "Maximum Likelihood Training of Score-Based Diffusion Models"; Vahdat, Kreis & Kautz (2021),
        "Score-based Generative Modeling in Latent Space".
    """

    title: ClassVar[str] = "flow matching"
    paper: ClassVar[str] = "Lipman et al. 2023"
    twice_differentiable: ClassVar[bool] = False  # the solver's custom gradient is not differentiable

    hidden_features: tuple[int, ...] = (128, 128)
    tolerance: float = 1e-4

    def __post_init__(self) -> None:
        check_widths(self, "hidden_features")
        if len(self.hidden_features) != 2:
            raise FlowvaeError(
                f"FlowMatching.hidden_features = {shown(self.hidden_features)}: must be two layer widths, such as "
                "(128, 128), for which the divergence is known."
            )
        check_number(self, "tolerance")
        if self.tolerance > 0.1:
            raise FlowvaeError(f"FlowMatching.tolerance = {self.tolerance:g}: must be 0.1 or less.")

    def build(self, features: int, context: int = 0) -> LazyDistribution:
        least = 10 * torch.finfo(torch.get_default_dtype()).eps
        if self.tolerance < least:
            raise FlowvaeError(
                f"FlowMatching.tolerance = {self.tolerance:g}: {torch.get_default_dtype()} resolves {least:.1g} at "
                "best; use a larger one."
            )
        velocity = Velocity(features, context, self.hidden_features)
        return FlowMatchingPrior(velocity, features, context, self.tolerance)

    def cost(self, features: int) -> Cost:
        return Cost(LEAST, LEAST, LEAST)


class Velocity(nn.Module):
    """Velocity network v(t, z, c) → (..., D) with two hidden layers; it starts as 0, so that z ~ N(0, I).

    Args:
        features: D.
        context: size of c; 0: none.
        hidden_features: widths of the hidden layers.
    """

    frequencies: Tensor

    def __init__(self, features: int, context: int, hidden_features: tuple[int, ...]) -> None:
        super().__init__()
        first, second = hidden_features
        self.features = features
        self.inner = nn.Linear(features + 2 * FREQUENCIES + context, first)
        self.middle = nn.Linear(first, second)
        self.outer = nn.Linear(second, features)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)
        self.register_buffer("frequencies", math.pi * torch.arange(1, FREQUENCIES + 1))

    def forward(self, t: Tensor, z: Tensor, c: Tensor | None = None) -> Tensor:
        """Evaluate v at times t, a scalar or shape (..., 1), and codes (..., D), given a condition (..., C)."""
        velocity: Tensor = self.outer(silu(self._hidden(t, z, c)[1]))
        return velocity

    def with_divergence(self, t: Tensor, z: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Evaluate v, shape (..., D), and tr ∂v/∂z, shape (...).

        With the slopes s and s' of the two layers, tr(W'' diag(s') W' diag(s) W) = Σ_ij s'_i (W' ∘ (W W'')ᵀ)_ij s_j.
        """
        lower, upper = self._hidden(t, z, c)
        mixed = self.middle.weight * (self.inner.weight[:, : self.features] @ self.outer.weight).T
        return self.outer(silu(upper)), (_slope(upper) * linear(_slope(lower), mixed)).sum(-1)

    def _hidden(self, t: Tensor, z: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
        """Compute the two hidden layers before their activations."""
        angles = (t * self.frequencies.to(z.dtype)).expand(*z.shape[:-1], -1)
        parts = [z, angles.cos(), angles.sin()]
        if c is not None:
            parts.append(c.expand(*z.shape[:-1], -1))
        lower = self.inner(torch.cat(parts, -1))
        return lower, self.middle(silu(lower))


def _slope(x: Tensor) -> Tensor:
    """Derivative of silu."""
    gate = x.sigmoid()
    return gate * (1 + x * (1 - gate))


class VelocityTransform(FreeFormJacobianTransform):
    """ODE of a velocity with a known divergence, from time t0 to t1.

    Args:
        velocity: function (t, z) → v.
        with_divergence: function (t, z) → (v, tr ∂v/∂z).
        settings: further arguments of zuko's transform.
    """

    def __init__(
        self,
        velocity: Callable[[Tensor, Tensor], Tensor],
        with_divergence: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
        **settings: Any,
    ) -> None:
        super().__init__(velocity, **settings)
        self.with_divergence = with_divergence

    @property
    def inv(self) -> VelocityTransform:
        settings = {"t0": self.t1, "t1": self.t0, "phi": self.phi, "atol": self.atol, "rtol": self.rtol}
        return VelocityTransform(self.f, self.with_divergence, **settings)

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Solve the ODE from x, shape (..., D), with the integral of its divergence, shape (...)."""

        def both(t: Tensor, z: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
            velocity, divergence = self.with_divergence(t, z)
            return velocity, divergence * SCALE

        state = (x, torch.zeros_like(x[..., 0]))
        z, total = odeint(both, state, self.t0, self.t1, self.phi, self.atol, self.rtol)
        return z, total / SCALE


class FlowMatchingPrior(LazyDistribution):
    """N(0, I) transported by a velocity field from t = 0 to t = 1.

    Args:
        velocity: v(t, z), or v(t, z, c), with a method `with_divergence` of the same arguments.
        features: D.
        context: size of c; 0: none.
        tolerance: relative tolerance of the solver.
    """

    velocity: Any  # a module with a further method

    def __init__(self, velocity: nn.Module, features: int, context: int = 0, tolerance: float = 1e-4) -> None:
        super().__init__()
        self.velocity = velocity
        self.base = standard_normal(features)
        self.context = context
        self.tolerance = tolerance

    def objective(self, codes: Tensor, c: Tensor | None = None) -> Tensor:
        """Compute the mean of ‖v − (z_1 − z_0)‖² over codes z_1 (N, D), with random t and z_0."""
        t = (torch.rand((), device=codes.device) + torch.arange(len(codes), device=codes.device) / len(codes)) % 1
        t = t[torch.randperm(len(codes), device=codes.device), None].to(codes)  # stratified over the batch
        noise = torch.randn_like(codes)
        conditions = () if c is None else (c,)
        predicted = self.velocity(t, torch.lerp(noise, codes, t), *conditions)
        loss: Tensor = (predicted - (codes - noise)).square().sum(-1).mean()
        return loss

    @torch.no_grad()
    def validate(self, codes: Tensor, c: Tensor | None = None) -> Tensor:
        """Compute the objective on all validation codes at once, without a gradient."""
        return self.objective(codes, c)

    def forward(self, c: Tensor | None = None) -> Distribution:
        conditions = {} if c is None else {"c": c}
        transform = VelocityTransform(
            partial(self.velocity, **conditions),
            partial(self.velocity.with_divergence, **conditions),
            t0=1.0,
            t1=0.0,
            phi=(*conditions.values(), *self.velocity.parameters()),
            atol=self.tolerance / 10,
            rtol=self.tolerance,
        )
        base = self.base()
        return NormalizingFlow(transform, base if c is None else base.expand(c.shape[:-1]))

    @torch.no_grad()
    @in_eval_mode
    def density_error(self, codes: Tensor, c: Tensor | None = None) -> float:
        """Compute the solver's largest error in log p(z) on codes (N, D), in nats, against a float64 reference."""
        reference = copy.deepcopy(self).cpu().double()  # not every accelerator has float64
        reference.tolerance = EXACT
        exact = reference(None if c is None else c.cpu().double()).log_prob(codes.cpu().double())
        return (self(c).log_prob(codes).cpu().double() - exact).abs().max().item()

    def facts(self) -> dict[str, Any]:
        """Return the solver's tolerance and, for a prior without a condition, its largest error on draws, in nats."""
        facts: dict[str, Any] = {"ode_tolerance": self.tolerance}
        if not self.context:
            with seeded(0), torch.no_grad():
                facts["ode_error"] = self.density_error(self().sample((CHECKED,)))
        return facts
