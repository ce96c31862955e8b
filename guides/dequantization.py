"""Guides for the noise that makes counts continuous: uniform, or a flow that reads the datum."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Transform, constraints
from zuko.lazy import Flow, LazyComposedTransform, LazyDistribution, LazyTransform, UnconditionalTransform

from flowvae.flows.pyro_adapter import to_pyro
from flowvae.flows.spec import FlowSpec, standard_normal, warn_if_slow
from flowvae.guides.flow import check_posterior
from flowvae.networks import check_rows, columns_of, declare_parameters

__all__ = ["FlowNoise", "UniformNoise"]


class UniformNoise(nn.Module):
    """u ~ U[0, 1)^D for every datum: site "noise" in a plate "data"; no parameters.

    References:
        Uria, Murray & Larochelle (2013), "RNADE"; Theis, van den Oord & Bethge (2016).
    """

    def forward(self, x: Tensor, size: int | None = None) -> Tensor:
        """The guide for data of shape (N, D); takes the model's arguments, as Pyro wants it."""
        with pyro.plate("data", len(check_rows("x", x))):
            return pyro.sample("noise", dist.Uniform(torch.zeros_like(x), torch.ones_like(x)).to_event(1))


class FlowNoise(nn.Module):
    """Variational dequantization: u = Φ(T(ε; h(x))), ε ~ N(0, I): site "noise" in a plate "data".

    Φ is the distribution function of N(0, 1), so with T the identity, as flows start, u is uniform: the
    training starts from uniform dequantization and can only shorten the code. (The paper has a sigmoid in Φ's place.)

    Args:
        encoder: a network (..., D) → (..., context).
        flow: the family T, cheap in its *generative* direction, such as `RealNVP` or `IAF`.
        features: D.
        context: numbers that the encoder gives.

    References:
        Ho, Chen, Srinivas, Duan & Abbeel (2019), "Flow++", section 3.1.
    """

    def __init__(self, encoder: nn.Module, flow: FlowSpec, features: int, context: int) -> None:
        super().__init__()
        check_posterior(self, flow)
        warn_if_slow(flow, features, "as a guide")
        self.encoder = encoder
        onto_line: LazyTransform = UnconditionalTransform(_FromUnit)
        transform = LazyComposedTransform(onto_line, flow.transform(features, context))
        self.head: LazyDistribution = Flow(transform, standard_normal(features))

    def forward(self, x: Tensor, size: int | None = None) -> Tensor:
        """The guide for data of shape (N, D); takes the model's arguments, as Pyro wants it."""
        check_rows("x", x, columns_of(self.encoder), self.encoder)
        declare_parameters("guide", self)
        with pyro.plate("data", len(x)):
            return pyro.sample("noise", self.posterior(x))

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        """q(u | x) for data of shape (..., D)."""
        return to_pyro(self.head(self.encoder(x)))


class _FromUnit(Transform):
    """The *normalizing* direction u → t = Φ⁻¹(u), from (0, 1)^D to R^D."""

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def _call(self, x: Tensor) -> Tensor:
        return torch.special.ndtri(_inside(x))

    def _inverse(self, y: Tensor) -> Tensor:
        return _inside(torch.special.ndtr(y))

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return (0.5 * y**2 + 0.5 * math.log(2 * math.pi)).sum(-1)


def _inside(u: Tensor) -> Tensor:
    """Where Φ rounds to 0 or 1, the nearest float that is neither."""
    edge = torch.finfo(u.dtype).eps
    return u.clamp(edge, 1 - edge)
