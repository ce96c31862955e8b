"""A linear-Gaussian pair with parameters of its own for every data point, whose bounds are known in closed form."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from flowvae.models import LinearGaussian
from flowvae.networks import declare_parameters


def oracle(latent: int = 2) -> LinearGaussian:
    """p(x, z) with 4 observed numbers."""
    generator = torch.Generator().manual_seed(3)
    return LinearGaussian(torch.randn(4, latent, generator=generator), torch.zeros(4), scale=0.8)


class LocalGuide(nn.Module):
    """q(z | x_i) = N(loc_i, diag scale_i²) around the posterior mean of x_i.

    Args:
        model: whose posterior.
        x: data, shape (N, 4).
        shift: of the means from those of the posteriors.
        factor: of the scales from the posterior's with independent dimensions.
    """

    def __init__(self, model: LinearGaussian, x: Tensor, shift: float = 0.2, factor: float = 1.3) -> None:
        super().__init__()
        best = model.mean_field(x)
        self.loc = nn.Parameter(best.mean.detach() + shift)
        self.log_scale = nn.Parameter((factor * best.variance.sqrt()).log().detach().expand_as(self.loc).clone())

    def posterior(self) -> dist.TorchDistribution:
        return dist.Normal(self.loc, self.log_scale.exp()).to_event(1)

    def forward(self, x: Tensor, size: int | None = None) -> None:
        declare_parameters("guide", self)
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.posterior())


def case(copies: int, latent: int = 2, **guide: float) -> tuple[LinearGaussian, LocalGuide, Tensor]:
    """Model, guide and the same data point many times, so that one run gives many independent estimates."""
    model = oracle(latent)
    x = torch.tensor([0.5, -1.0, 0.3, 0.8]).expand(copies, 4)
    return model, LocalGuide(model, x, **guide), x


def divergence(one: Any, other: Any) -> float:
    """KL divergence in nats between the first data point's Gaussians."""

    def dense(gaussian: Any) -> torch.distributions.MultivariateNormal:
        covariance = getattr(gaussian, "covariance_matrix", torch.diag_embed(gaussian.variance))
        return torch.distributions.MultivariateNormal(gaussian.mean[0].detach(), covariance[0].detach())

    return torch.distributions.kl_divergence(dense(one), dense(other)).item()


def log_weights(model: LinearGaussian, guide: LocalGuide, x: Tensor, noise: Tensor, fixed: bool = False) -> Tensor:
    """Log p(x, z) − log q(z | x) of draws with this noise (K, N, D), by hand, shape (K, N)."""
    loc, scale = guide.loc, guide.log_scale.exp()
    z = loc + scale * noise
    if fixed:
        loc, scale = loc.detach(), scale.detach()

    def normal(value: Tensor, mean: Any, sd: Any) -> Tensor:
        sd = torch.as_tensor(sd)
        return (-0.5 * ((value - mean) / sd).square() - sd.log() - 0.5 * math.log(2 * math.pi)).sum(-1)

    joint = normal(x, z @ model.weight.T + model.center, model.log_scale.exp()) + normal(z, 0.0, 1.0)
    return joint - normal(z, loc, scale)


def gradients(surrogate: Tensor, *modules: nn.Module) -> Tensor:
    """Gradients of all parameters as one vector."""
    parameters = [parameter for module in modules for parameter in module.parameters()]
    found = torch.autograd.grad(surrogate, parameters, allow_unused=True)
    return torch.cat([(g if g is not None else 0 * p).flatten() for g, p in zip(found, parameters, strict=True)])


def loss_and_gradients(
    elbo: Any, model: nn.Module, guide: nn.Module, *args: Any, seed: int = 5
) -> tuple[float, Tensor]:
    """Loss, and gradients of all parameters as one vector, by `loss_and_grads`."""
    parameters = [*model.parameters(), *guide.parameters()]
    for parameter in parameters:
        parameter.grad = None
    torch.manual_seed(seed)
    loss = elbo.loss_and_grads(model, guide, *args)
    found = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    return loss, torch.cat([gradient.flatten() for gradient in found])


def seeded_noise(draws: int, x: Tensor, latent: int = 2, seed: int = 5) -> Tensor:
    """The noise that the guide draws from this seed, with vectorized particles."""
    torch.manual_seed(seed)
    return torch.randn(draws, len(x), latent)


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """Mean and its standard error."""
    return float(values.mean()), float(values.std() / len(values) ** 0.5)


VECTORIZED = {"vectorize_particles": True, "max_plate_nesting": 1}
