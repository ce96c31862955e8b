"""Flows as models of counts, dequantized by noise."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Size, Tensor
from zuko.lazy import LazyComposedTransform, LazyTransform

from flowvae.core.errors import FlowvaeError, check_int_value
from flowvae.flows.layers.logit import Logit
from flowvae.flows.pyro_adapter import to_pyro
from flowvae.models.checks import batch_size
from flowvae.models.flow_model import FlowModel
from flowvae.networks import declare_parameters

__all__ = ["DequantizedDensity", "DequantizedFlow"]


class DequantizedDensity(TorchDistribution):
    """The density p_v(x + δ) of a continuous v, as a function of counts x and noise δ.

    Over x and δ ∈ [0, 1)^D jointly it is the distribution of v: x = ⌊v⌋, δ = v − ⌊v⌋. Given δ alone it is not
    normalized over x, so it has a log-density but no sampler.

    Args:
        continuous: the distribution of v.
        noise: δ, shape (..., *event shape).
        total: the largest count.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012  (torch's own declaration)

    def __init__(self, continuous: TorchDistribution, noise: Tensor, total: int) -> None:
        self.continuous = continuous
        self.noise = noise
        self.total = total
        batch = noise.ndim - len(continuous.event_shape)
        super().__init__(noise.shape[:batch], noise.shape[batch:], validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.integer_interval(0, self.total), len(self.event_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """Compute log p_v(value + δ) in nats, (..., *event shape) → (...)."""
        return self.continuous.log_prob(value + self.noise)

    def expand(self, batch_shape: Any, _instance: Any = None) -> DequantizedDensity:
        """Expand the batch shape."""
        return DequantizedDensity(self.continuous, self.noise.expand(*batch_shape, *self.event_shape), self.total)


class DequantizedFlow(FlowModel):
    """Flow model of counts, x = ⌊v⌋ with v = T(u): sites "noise" and "x", of the event shape, in a plate "data".

    The probability of a data point is an integral over its cell,

        P(x) = ∫_{[0,1)^D} p_v(x + δ) dδ,

    which is not known in closed form. With a guide q(δ | x) of the site "noise",

    - the ELBO E_q[log p_v(x + δ) − log q] is a *lower bound* of log P(x), in nats of the discrete data;
    - log (1/K) Σ_k p_v(x + δ_k) / q(δ_k) is in expectation a *tighter lower bound*, and converges to log P(x) as K
      grows (Burda et al. 2016);
    - `UniformNoise` is the guide of uniform dequantization, `FlowNoise` that of variational dequantization.

    Nothing else is approximate; p_v includes the logit's Jacobian. With alpha = 0 the P(x) of all count vectors
    sum to 1. With alpha > 0 they sum to the mass that the flow gives to [0, total + 1)^D, which is below 1: bits/dim
    are then a valid but slightly too long code length.

    Args:
        transform: a lazy transform of rows (..., D) in logit space whose call is the *normalizing* direction.
        shape: event shape of the data, of D values; or D itself, for (D,).
        total: the largest count.
        alpha: setting of `Logit`.

    References:
        Theis, van den Oord & Bethge (2016), "A note on the evaluation of generative models"; Ho et al. (2019).

    Raises:
        FlowvaeError: for a total below 1, an alpha outside [0, 0.5), or data that are not counts from 0 to total.
    """

    def __init__(self, transform: LazyTransform, shape: Size | int, total: int, alpha: float = 0.05) -> None:
        check_int_value("DequantizedFlow.total", total)
        super().__init__(LazyComposedTransform(Logit(total, alpha), transform), shape)
        self.total = total
        self.alpha = alpha

    def forward(self, x: Tensor | None = None, size: int | None = None) -> Tensor:
        """Run the model: observe counts x of shape (N, *shape), or generate `size` new data points.

        With data, the noise is a latent variable; without data, v is drawn and x = ⌊v⌋.

        Raises:
            FlowvaeError: if neither is given, or for data of another shape or type, or that are not counts.
        """
        declare_parameters("model", self)
        with pyro.plate("data", batch_size(x, size, self, self.shape)):
            continuous = to_pyro(self.flow())
            if x is None:
                return pyro.deterministic("x", self._count(pyro.sample("v", continuous)), event_dim=len(self.shape))
            self._check(x)
            uniform = dist.Uniform(torch.zeros_like(x), torch.ones_like(x)).to_event(len(self.shape))
            noise = pyro.sample("noise", uniform)
            return pyro.sample("x", DequantizedDensity(continuous, noise, self.total), obs=x)

    def encode(self, x: Tensor) -> Tensor:
        """Compute the base point u = T⁻¹(x + ½) of the middle of each cell, (..., *shape) → (..., D)."""
        return super().encode(x + 0.5)

    def decode(self, u: Tensor) -> Tensor:
        """Compute the counts of the cell that contains T(u), (..., D) → (..., *shape)."""
        return self._count(super().decode(u))

    def _count(self, v: Tensor) -> Tensor:
        return v.floor().clamp(0, self.total)  # for alpha > 0, v can lie slightly outside

    def _check(self, x: Tensor) -> None:
        bad = ~((x >= 0) & (x <= self.total) & (x == x.round()))
        if bad.any():
            raise FlowvaeError(
                f"value {x[bad][0].item():g} ({int(bad.sum())} such values): must be whole numbers from 0 to "
                f"{self.total}. Scale the data to counts, or use FlowModel for real numbers."
            )
