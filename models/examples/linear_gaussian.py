"""The linear-Gaussian model, whose posterior, evidence and best mean-field guide are known exactly."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from flowvae.models.checks import batch_size
from flowvae.networks import declare_parameters

__all__ = ["LinearGaussian"]


class LinearGaussian(nn.Module):
    """Probabilistic PCA: z ~ N(0, I), x ~ N(W z + μ, σ² I); sites "z" and "x" in a plate "data".

    Args:
        weight: W, shape (D, latent).
        mean: μ, shape (D,).
        scale: σ.

    References:
        Tipping & Bishop (1999), "Probabilistic Principal Component Analysis".
    """

    def __init__(self, weight: Tensor, mean: Tensor, scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.clone())
        self.center = nn.Parameter(mean.clone())
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale), dtype=weight.dtype))

    def forward(self, x: Tensor | None = None, size: int | None = None) -> Tensor:
        """Run the model: observe x of shape (N, D), or generate `size` new data points.

        Raises:
            FlowvaeError: if neither is given, or for data of another shape or type.
        """
        declare_parameters("model", self)
        latent = self.weight.shape[1]
        zeros = torch.zeros(latent, dtype=self.weight.dtype, device=self.weight.device)
        with pyro.plate("data", batch_size(x, size, self, len(self.center))):
            z = pyro.sample("z", dist.Normal(zeros, 1.0).to_event(1))
            return pyro.sample("x", self.decode(z), obs=x)

    def decode(self, z: Tensor) -> dist.TorchDistribution:
        """Return p(x | z) for codes of shape (..., latent)."""
        return dist.Normal(z @ self.weight.T + self.center, self.log_scale.exp()).to_event(1)

    def precision(self) -> Tensor:
        """Compute Λ = (WᵀW + σ² I) / σ², the precision of every posterior, shape (latent, latent)."""
        variance = (2 * self.log_scale).exp()
        identity = torch.eye(self.weight.shape[1], dtype=self.weight.dtype, device=self.weight.device)
        return self.weight.T @ self.weight / variance + identity

    def posterior(self, x: Tensor) -> dist.MultivariateNormal:
        """Compute the exact p(z | x) for data of shape (..., D)."""
        precision = self.precision()
        pull = (x - self.center) @ self.weight / (2 * self.log_scale).exp()
        loc = torch.linalg.solve(precision, pull.unsqueeze(-1)).squeeze(-1)
        return dist.MultivariateNormal(loc, precision_matrix=precision)

    def mean_field(self, x: Tensor) -> dist.TorchDistribution:
        """Compute the best guide with independent dimensions: the posterior's mean, and variances 1/Λ_ii."""
        scale = self.precision().diagonal().rsqrt()
        return dist.Normal(self.posterior(x).loc, scale).to_event(1)

    def mean_field_gap(self) -> Tensor:
        """Compute log p(x) minus the ELBO of `mean_field`, in nats, the same for every x: ½ (Σ log Λ_ii − log|Λ|)."""
        precision = self.precision()
        return 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision))

    def log_evidence(self, x: Tensor) -> Tensor:
        """Compute log p(x) exactly, in nats, (..., D) → (...)."""
        variance = (2 * self.log_scale).exp()
        return dist.LowRankMultivariateNormal(self.center, self.weight, variance.expand(len(self.center))).log_prob(x)
