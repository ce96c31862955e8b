"""Guides for dequantization noise: uniform, or a flow given the data point."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import torch
from torch import Size, Tensor, nn
from torch.distributions import ReshapeTransform, Transform, constraints
from zuko.lazy import Flow, LazyComposedTransform, LazyDistribution, LazyTransform, UnconditionalTransform

from flowvae.flows.pyro_adapter import to_pyro
from flowvae.flows.spec import FlowSpec, standard_normal, warn_if_slow
from flowvae.guides.flow import check_posterior
from flowvae.networks import check_data, declare_parameters, input_shape

__all__ = ["FlowNoise", "UniformNoise"]


class UniformNoise(nn.Module):
    """Uniform dequantization, δ ~ U[0, 1)^D for every data point: site "noise" in a plate "data"; no parameters.

    References:
        Uria, Murray & Larochelle (2013), "RNADE"; Theis, van den Oord & Bethge (2016).
    """

    def forward(self, x: Tensor, size: int | None = None) -> Tensor:
        """Run the guide for data of shape (N, *shape); takes the model's arguments, as Pyro requires.

        Raises:
            FlowvaeError: for data that are not a batch of floating-point numbers.
        """
        with pyro.plate("data", len(check_data("x", x))):
            return pyro.sample("noise", dist.Uniform(torch.zeros_like(x), torch.ones_like(x)).to_event(x.ndim - 1))


class FlowNoise(nn.Module):
    """Variational dequantization, δ = Φ(T(ε; h(x))) with ε ~ N(0, I): site "noise" in a plate "data".

    Φ is the distribution function of N(0, 1). If T starts as the identity, δ is uniform at first: training starts from
    uniform dequantization. (The paper has a sigmoid in place of Φ.)

    Args:
        encoder: a network (..., *shape) → (..., context).
        flow: the family T, cheap in its *generative* direction, such as `RealNVP` or `IAF`.
        shape: event shape of the data, of D values; or D itself, for (D,).
        context: number of features that the encoder gives.

    Raises:
        FlowvaeError: for a flow that cannot be a posterior.

    References:
        Ho, Chen, Srinivas, Duan & Abbeel (2019), "Flow++", section 3.1.
    """

    def __init__(self, encoder: nn.Module, flow: FlowSpec, shape: Size | int, context: int) -> None:
        super().__init__()
        event = Size((shape,)) if isinstance(shape, int) else Size(shape)
        features = math.prod(event)
        check_posterior(self, flow)
        warn_if_slow(flow, features, "as a guide")
        self.encoder = encoder
        onto_line: LazyTransform = UnconditionalTransform(_FromUnit)
        flatten = [UnconditionalTransform(ReshapeTransform, event, Size((features,)))] if len(event) > 1 else []
        transform = LazyComposedTransform(*flatten, onto_line, flow.transform(features, context))
        self.head: LazyDistribution = Flow(transform, standard_normal(features))

    def forward(self, x: Tensor, size: int | None = None) -> Tensor:
        """Run the guide for data of shape (N, *shape); takes the model's arguments, as Pyro requires.

        Raises:
            FlowvaeError: for data of another shape or type.
        """
        check_data("x", x, input_shape(self.encoder), self.encoder)
        declare_parameters("guide", self)
        with pyro.plate("data", len(x)):
            return pyro.sample("noise", self.posterior(x))

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        """Compute q(δ | x) for data of shape (..., *shape)."""
        return to_pyro(self.head(self.encoder(x)))


class _FromUnit(Transform):
    """The *normalizing* direction δ → Φ⁻¹(δ), from (0, 1)^D to R^D."""

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
    """Clamp values that Φ rounds to 0 or 1 to the open interval (0, 1)."""
    edge = torch.finfo(u.dtype).eps
    return u.clamp(edge, 1 - edge)
