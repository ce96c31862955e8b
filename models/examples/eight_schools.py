"""Eight schools: a small hierarchical model, on which a mean-field guide fails in the centred form."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from flowvae.core.errors import FlowvaeError
from flowvae.models.checks import as_observations

__all__ = ["EightSchools"]

EFFECT = (28, 8, -3, 7, -1, 1, 18, 12)  # effect of coaching in test points, by school
ERROR = (15, 10, 16, 11, 9, 11, 10, 18)  # their standard errors


class EightSchools(nn.Module):
    """Eight schools: μ ~ N(0, 5), τ ~ half-Cauchy(5), θ_j ~ N(μ, τ), y_j ~ N(θ_j, error_j).

    It is called without arguments. Sites "mu" and "tau"; "theta" and the observed "y" in a plate "schools". The
    non-centred form samples "theta_raw" ~ N(0, 1) instead and makes θ = μ + τ·theta_raw a deterministic site. Both
    have the same posterior over (μ, τ, θ), but not the same difficulty for a guide: in the centred form the scale of θ
    shrinks with τ, a funnel that no Gaussian fits; the non-centred posterior is closer to a Gaussian.

    Args:
        effect: y, shape (J,); Rubin's eight by default.
        error: their standard errors, shape (J,), above zero.
        centred: whether to use the centred form.

    References:
        Rubin (1981), "Estimation in parallel randomized experiments"; Papaspiliopoulos, Roberts & Sköld (2007).

    Raises:
        FlowvaeError: for data of other shapes, not finite, or errors that are not positive.
    """

    effect: Tensor
    error: Tensor

    def __init__(self, effect: Any = EFFECT, error: Any = ERROR, centred: bool = True) -> None:
        super().__init__()
        self.centred = centred
        self.register_buffer("effect", as_observations(self, "effect", effect))
        self.register_buffer("error", as_observations(self, "error", error, above=0.0))
        if self.effect.shape != self.error.shape:
            raise FlowvaeError(
                f"EightSchools: {len(self.effect)} effects and {len(self.error)} errors; give one error for each."
            )

    def forward(self) -> Tensor:
        """Run the model; returns θ, shape (..., J)."""
        zero = self.effect.new_zeros(())
        mu = pyro.sample("mu", dist.Normal(zero, 5.0))
        tau = pyro.sample("tau", dist.HalfCauchy(zero + 5.0))
        with pyro.plate("schools", len(self.effect)):
            if self.centred:
                theta = pyro.sample("theta", dist.Normal(mu, tau))
            else:
                raw = pyro.sample("theta_raw", dist.Normal(zero, 1.0))
                theta = pyro.deterministic("theta", mu + tau * raw, event_dim=0)
            pyro.sample("y", dist.Normal(theta, self.error), obs=self.effect)
        return theta
