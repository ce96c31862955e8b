"""Normalizing flows as models of data."""

from __future__ import annotations

import math

import pyro
import torch
from torch import Size, Tensor, nn
from torch.distributions import ReshapeTransform, Transform
from zuko.lazy import Flow, LazyComposedTransform, LazyTransform, UnconditionalTransform

from flowvae.core.errors import FlowvaeError, shown
from flowvae.flows.pyro_adapter import to_pyro
from flowvae.flows.spec import standard_normal
from flowvae.models.checks import batch_size
from flowvae.networks import declare_parameters, in_eval_mode

__all__ = ["FlowModel"]


class FlowModel(nn.Module):
    """Flow as a model of data, x = T(u) with u ~ N(0, I): site "x", of the event shape, in a plate "data".

    There is no latent variable. log p(x) = log N(T⁻¹(x)) + log|det ∂T⁻¹/∂x| is *exact*, in nats, and SVI with
    `NoGuide` maximizes it: maximum likelihood. u has as many values as x, since T is a bijection.

    Args:
        transform: a lazy transform of rows (..., D) whose call is the *normalizing* direction x → u, such as a spec's
            `transform(D)`.
        shape: event shape of the data, of D values, which are flattened before the transform; or D itself, for (D,).

    References:
        Papamakarios et al. (2021), "Normalizing Flows for Probabilistic Modeling and Inference".
    """

    def __init__(self, transform: LazyTransform, shape: Size | int) -> None:
        super().__init__()
        self.shape = Size((shape,)) if isinstance(shape, int) else Size(shape)
        self.features = math.prod(self.shape)
        if len(self.shape) > 1:
            flatten = UnconditionalTransform(ReshapeTransform, self.shape, Size((self.features,)))
            transform = LazyComposedTransform(flatten, transform)
        self.flow = Flow(transform, standard_normal(self.features))

    def forward(self, x: Tensor | None = None, size: int | None = None) -> Tensor:
        """Run the model: observe x of shape (N, *shape), or generate `size` new data points.

        Raises:
            FlowvaeError: if neither is given, or for data of another shape or type.
        """
        declare_parameters("model", self)
        with pyro.plate("data", batch_size(x, size, self, self.shape)):
            return pyro.sample("x", to_pyro(self.flow()), obs=x)

    def encode(self, x: Tensor) -> Tensor:
        """Compute the base point u = T⁻¹(x) of each data point, (..., *shape) → (..., D)."""
        return self._transform()(x)

    def decode(self, u: Tensor) -> Tensor:
        """Compute the data point x = T(u) of each base point, (..., D) → (..., *shape)."""
        return self._transform().inv(u)

    @torch.no_grad()
    @in_eval_mode
    def generate(self, size: int, temperature: float = 1.0) -> Tensor:
        """Draw new data (size, *shape), from u ~ N(0, temperature² I).

        A temperature below 1 gives draws nearer to the mode, of less variety and higher quality (Kingma & Dhariwal
        2018); only a temperature of 1 gives draws from the model.

        Raises:
            FlowvaeError: for a temperature that is not a positive number.
        """
        if not 0 < temperature < float("inf"):
            raise FlowvaeError(f"temperature = {shown(temperature)}: must be a number above 0; 1 draws from the model.")
        return self.decode(temperature * self.flow().base.sample((size,)))

    def _transform(self) -> Transform:
        return self.flow().transform
