"""GARCH(1, 1): a time series with autoregressive variance, whose parameters are bounded and skewed."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowvae.core.errors import FlowvaeError, check_number
from flowvae.core.seeds import seeded
from flowvae.models.checks import as_observations

__all__ = ["Garch11", "linear_recurrence"]


class Garch11(nn.Module):
    """GARCH(1, 1): y_t ~ N(μ, s_t), s_t² = α0 + α1 (y_{t−1} − μ)² + β1 s_{t−1}², s_1 = sigma1.

    It is called without arguments. The prior is flat over μ, α0 > 0 and the triangle α1 > 0, β1 > 0, α1 + β1 < 1.
    Sites "mu", "alpha0", "alpha1" and "share", with β1 = share·(1 − α1) a deterministic site "beta1", because Pyro's
    guides and NUTS assume that a site's support is fixed. The flat prior over the triangle is α1 ~ Beta(1, 2) and
    share ~ Uniform(0, 1), because the slice at α1 has length 1 − α1, which is the density of Beta(1, 2) up to its
    constant 2. "y" has event shape (T,).

    The flat priors of μ and α0 have density 1 and cannot be sampled. Where Pyro needs a draw, for an initial value or
    a shape, it gets N(0, 1) and its exponential, so draws of the *prior* predictive are meaningless. Under
    `poutine.uncondition`, y_t is a one-step-ahead draw given the observed y_1, …, y_{t−1}.

    Args:
        y: the series, shape (T,).
        sigma1: standard deviation of the first value.

    References:
        Bollerslev (1986), "Generalized autoregressive conditional heteroskedasticity".

    Raises:
        FlowvaeError: for a series of another shape or not finite, or a sigma1 that is not positive.
    """

    y: Tensor

    def __init__(self, y: Any, sigma1: float = 0.5) -> None:
        super().__init__()
        self.sigma1 = sigma1
        check_number(self, "sigma1")
        self.register_buffer("y", as_observations(self, "y", y))

    @classmethod
    def simulated(cls, size: int = 200, seed: int = 0) -> Garch11:
        """Simulate a series: μ = 5, α0 = 0.5, α1 = 0.4, β1 = 0.3, sigma1 = 0.5.

        Raises:
            FlowvaeError: for a size below 1.
        """
        if size < 1:
            raise FlowvaeError(f"Garch11.simulated: size = {size}; must be 1 or more.")
        with seeded(seed):
            unit = torch.randn(size)
        variance, noise = torch.tensor(0.5**2), []
        for value in unit:
            noise.append(variance.sqrt() * value)
            variance = 0.5 + 0.4 * noise[-1] ** 2 + 0.3 * variance
        return cls(5 + torch.stack(noise))

    def forward(self) -> Tensor:
        """Run the model; returns y, shape (..., T)."""
        zero = self.y.new_zeros(())
        # a masked distribution provides support and draws, but no density
        mu = pyro.sample("mu", dist.Normal(zero, 1.0).mask(False))
        alpha0 = pyro.sample("alpha0", dist.LogNormal(zero, 1.0).mask(False))
        alpha1 = pyro.sample("alpha1", dist.Beta(zero + 1, zero + 2))
        share = pyro.sample("share", dist.Uniform(zero, zero + 1))
        beta1 = pyro.deterministic("beta1", share * (1 - alpha1), event_dim=0)
        scale = self.scales(mu, alpha0, alpha1, beta1)
        return pyro.sample("y", dist.Normal(mu.unsqueeze(-1), scale).to_event(1), obs=self.y)

    def scales(self, mu: Tensor, alpha0: Tensor, alpha1: Tensor, beta1: Tensor) -> Tensor:
        """Compute the standard deviations s_1, …, s_T for parameters of shape (...), shape (..., T)."""
        mu, alpha0, alpha1, beta1 = (value.unsqueeze(-1) for value in (mu, alpha0, alpha1, beta1))
        innovations = alpha0 + alpha1 * (self.y[:-1] - mu) ** 2
        first = self.y.new_tensor(self.sigma1**2).expand(*innovations.shape[:-1], 1)
        return linear_recurrence(torch.cat((first, innovations), -1), beta1).sqrt()


def linear_recurrence(a: Tensor, b: Tensor) -> Tensor:
    """Solve s_1 = a_1, s_t = a_t + b s_{t−1} for all t at once, shapes (..., T) and (..., 1) → (..., T).

    The solution s_t = Σ_k b^k a_{t−k} is summed by doubling: adding b^d times the sum d steps back to a sum of d terms
    gives a sum of 2d terms. This takes log2 T steps instead of T, with the same terms.
    """
    reach, power = 1, b
    while reach < a.shape[-1]:
        a = a + power * F.pad(a[..., :-reach], (reach, 0))
        reach, power = 2 * reach, power**2
    return a
