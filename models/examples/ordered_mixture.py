"""A mixture of two Gaussians with ordered means, which identify the components."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor, nn

from flowvae.core.errors import FlowvaeError
from flowvae.core.seeds import seeded
from flowvae.models.checks import as_observations

__all__ = ["OrderedMixture", "OrderedNormal"]


class OrderedNormal(TorchDistribution):
    """D independent N(0, scale) variables, sorted: p(x) = D! Π_i N(x_i; 0, scale) on x_1 < … < x_D.

    The constant is D! because each sorted vector has D! equally likely orders. The density is that of x itself: a map
    of x to an unconstrained space adds its own Jacobian, as in Pyro.

    Args:
        scale: shape (...), the batch shape.
        features: D.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"scale": constraints.positive}
    support = constraints.ordered_vector
    has_rsample = True

    def __init__(self, scale: Tensor, features: int, validate_args: bool | None = None) -> None:
        self.scale = scale
        super().__init__(scale.shape, torch.Size((features,)), validate_args=validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """Compute log p(value) in nats, (..., D) → (...)."""
        if self._validate_args:
            self._validate_sample(value)
        scale = self.scale.unsqueeze(-1)
        each = dist.Normal(torch.zeros_like(scale), scale).log_prob(value)
        return each.sum(-1) + math.lgamma(self.event_shape[0] + 1)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draw samples of shape sample_shape + batch shape + (D,)."""
        unit = torch.randn(self._extended_shape(sample_shape), dtype=self.scale.dtype, device=self.scale.device)
        return (self.scale.unsqueeze(-1) * unit).sort(-1).values

    def expand(self, batch_shape: Any, _instance: Any = None) -> OrderedNormal:
        """Expand the batch shape."""
        return OrderedNormal(self.scale.expand(batch_shape), self.event_shape[0], validate_args=False)


class OrderedMixture(nn.Module):
    """Mixture of two Gaussians, y ~ θ N(μ_1, σ_1) + (1 − θ) N(μ_2, σ_2) with μ_1 < μ_2.

    It is called without arguments. Priors: μ ordered, N(0, 2) each; σ ~ half-normal(2) each; θ ~ Beta(5, 5). Sites "mu"
    and "sigma", of event shape (2,), "theta", and "y", of event shape (N,). The component of each data point is summed
    out. Without the order the posterior would have two identical modes.

    Args:
        y: data, shape (N,).

    References:
        Betancourt (2017), "Identifying Bayesian mixture models".

    Raises:
        FlowvaeError: for data of another shape or not finite.
    """

    y: Tensor

    def __init__(self, y: Any) -> None:
        super().__init__()
        self.register_buffer("y", as_observations(self, "y", y))

    @classmethod
    def simulated(cls, size: int = 200, seed: int = 0) -> OrderedMixture:
        """Simulate data: μ = (−1, 2), σ = (1, 0.7), θ = 0.4.

        Raises:
            FlowvaeError: for a size below 1.
        """
        if size < 1:
            raise FlowvaeError(f"OrderedMixture.simulated: size = {size}; must be 1 or more.")
        with seeded(seed):
            first, unit = torch.rand(size) < 0.4, torch.randn(size)
        return cls(torch.where(first, -1 + unit, 2 + 0.7 * unit))

    def forward(self) -> Tensor:
        """Run the model; returns y, shape (..., N)."""
        two = self.y.new_tensor(2.0)
        mu = pyro.sample("mu", OrderedNormal(two, 2))
        sigma = pyro.sample("sigma", dist.HalfNormal(two.expand(2)).to_event(1))
        theta = pyro.sample("theta", dist.Beta(2.5 * two, 2.5 * two))
        weights = torch.stack((theta, 1 - theta), -1).unsqueeze(-2)
        components = dist.Normal(mu.unsqueeze(-2), sigma.unsqueeze(-2))
        each = dist.MixtureSameFamily(dist.Categorical(weights), components)
        return pyro.sample("y", each.expand((*theta.shape, len(self.y))).to_event(1), obs=self.y)
