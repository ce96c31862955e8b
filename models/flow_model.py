"""A normalizing flow as the model of the data themselves."""

from __future__ import annotations

import pyro
import torch
from torch import Tensor, nn
from torch.distributions import Transform
from zuko.lazy import Flow, LazyTransform

from flowvae.core.errors import FlowvaeError, shown
from flowvae.flows.pyro_adapter import to_pyro
from flowvae.flows.spec import standard_normal
from flowvae.models.checks import batch_size
from flowvae.networks import declare_parameters, in_eval_mode

__all__ = ["FlowModel"]


class FlowModel(nn.Module):
    """x = T(u), u ~ N(0, I), independently for every datum: site "x", of event shape (D,), in a plate "data".

    It has no latent variable. log p(x) = log N(T⁻¹(x)) + log|det ∂T⁻¹/∂x| is *exact*, in nats, and SVI with
    `NoGuide` maximizes it: maximum likelihood. u is as large as x, for a bijection reduces nothing; it is
    "latent" in name only.

    Args:
        transform: a lazy transform whose call is the *normalizing* direction x → u, such as a spec's
            `transform(features)`.
        features: D.

    References:
        Papamakarios et al. (2021), "Normalizing Flows for Probabilistic Modeling and Inference".
    """

    def __init__(self, transform: LazyTransform, features: int) -> None:
        super().__init__()
        self.features = features
        self.flow = Flow(transform, standard_normal(features))

    def forward(self, x: Tensor | None = None, size: int | None = None) -> Tensor:
        """The model: observes x of shape (N, D), or generates `size` new data.

        Raises:
            FlowvaeError: if neither is given, or for data of another shape or type.
        """
        declare_parameters("model", self)
        with pyro.plate("data", batch_size(x, size, self, self.features)):
            return pyro.sample("x", to_pyro(self.flow()), obs=x)

    def encode(self, x: Tensor) -> Tensor:
        """The base point u = T⁻¹(x) of each datum, shape (..., D)."""
        return self._transform()(x)

    def decode(self, u: Tensor) -> Tensor:
        """The datum x = T(u) of each base point, shape (..., D)."""
        return self._transform().inv(u)

    @torch.no_grad()
    @in_eval_mode
    def generate(self, size: int, temperature: float = 1.0) -> Tensor:
        """New data (size, D), from u ~ N(0, temperature² I).

        Below 1 the draws stay nearer to the mode, in variety as in quality (Kingma & Dhariwal 2018); only at 1 are they
        draws from the model.

        Raises:
            FlowvaeError: for a temperature that is not a positive number.
        """
        if not 0 < temperature < float("inf"):
            raise FlowvaeError(f"temperature = {shown(temperature)}: must be a number above 0; 1 draws from the model.")
        return self.decode(temperature * self.flow().base.sample((size,)))

    def _transform(self) -> Transform:
        return self.flow().transform
