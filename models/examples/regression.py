"""Linear regression with unknown noise: correlated inputs make a correlated posterior."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from flowvae.core.errors import FlowvaeError, check_choice, check_number
from flowvae.core.seeds import seeded
from flowvae.models.checks import as_observations

__all__ = ["LinearRegression"]

NOISE = {"half-normal": dist.HalfNormal, "half-cauchy": dist.HalfCauchy}


class LinearRegression(nn.Module):
    """Linear regression: β_d ~ N(0, beta_scale) or flat, σ ~ half-normal or half-Cauchy, y ~ N(x β, σ).

    It is called without arguments. Sites "beta", of event shape (D,), "sigma", and "y", of event shape (N,). There is
    no separate intercept: put a column of ones into x. The data are one event without a plate, because Pyro's parallel
    `Predictive` would confuse the axis of beta with that of the plate.

    A flat prior has density 1 (it adds nothing to the log joint) and cannot be sampled. Where Pyro needs a draw, for
    an initial value or a shape, it gets one of N(0, I), so draws of the *prior* predictive are meaningless. Posterior
    predictive draws, `Predictive(poutine.uncondition(model), draws)`, are valid.

    Args:
        x: inputs, shape (N, D).
        y: outputs, shape (N,).
        beta_scale: standard deviation of the coefficients' prior; None: flat.
        noise: family of σ's prior, "half-normal" or "half-cauchy".
        noise_scale: scale of σ's prior.

    Raises:
        FlowvaeError: for data of other shapes or not finite, or settings out of range.
    """

    x: Tensor
    y: Tensor

    def __init__(
        self,
        x: Any,
        y: Any,
        beta_scale: float | None = 10.0,
        noise: str = "half-normal",
        noise_scale: float = 10.0,
    ) -> None:
        super().__init__()
        self.beta_scale = beta_scale
        self.noise = noise
        self.noise_scale = noise_scale
        check_number(self, "beta_scale", optional=True)
        check_choice(self, "noise", NOISE)
        check_number(self, "noise_scale")
        self.register_buffer("x", as_observations(self, "x", x, dims=2))
        self.register_buffer("y", as_observations(self, "y", y))
        if len(self.x) != len(self.y):
            raise FlowvaeError(
                f"LinearRegression: {len(self.x)} rows of x for {len(self.y)} values of y; give one value per row."
            )

    @classmethod
    def correlated(
        cls, size: int = 50, features: int = 3, correlation: float = 0.95, seed: int = 0, **settings: Any
    ) -> LinearRegression:
        """Simulate data whose inputs have unit variance and equal correlations; β_d = (−1)^d, σ = 1.

        Args:
            size: N.
            features: D.
            correlation: correlation of every pair of inputs, from 0 to below 1. A mean-field guide loses more near 1.
            seed: seed of the data.
            settings: further arguments of the model.

        Raises:
            FlowvaeError: for a correlation outside [0, 1), or fewer than one row or feature.
        """
        if not 0 <= correlation < 1 or size < 1 or features < 1:
            raise FlowvaeError(
                f"LinearRegression.correlated: size = {size}, features = {features}, correlation = {correlation:g}; "
                "must be 1 or more, 1 or more, and from 0 to below 1."
            )
        with seeded(seed):
            shared, own, error = torch.randn(size, 1), torch.randn(size, features), torch.randn(size)
        x = math.sqrt(correlation) * shared + math.sqrt(1 - correlation) * own
        beta = 1.0 - 2.0 * (torch.arange(1, features + 1) % 2)
        return cls(x, x @ beta.to(x) + error, **settings)

    def forward(self) -> Tensor:
        """Run the model; returns y, shape (..., N)."""
        zeros = self.x.new_zeros(self.x.shape[1])
        prior = dist.Normal(zeros, self.beta_scale or 1.0).to_event(1)
        # a masked distribution provides support and draws, but no density
        beta = pyro.sample("beta", prior if self.beta_scale else prior.mask(False))
        sigma = pyro.sample("sigma", NOISE[self.noise](self.x.new_tensor(self.noise_scale)))
        return pyro.sample("y", dist.Normal(beta @ self.x.T, sigma.unsqueeze(-1)).to_event(1), obs=self.y)
