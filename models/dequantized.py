"""A flow as the model of counts, made continuous by noise."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from zuko.lazy import LazyComposedTransform, LazyTransform

from flowvae.core.errors import FlowvaeError, check_int_value
from flowvae.flows.layers.logit import Logit
from flowvae.flows.pyro_adapter import to_pyro
from flowvae.models.checks import batch_size
from flowvae.models.flow_model import FlowModel
from flowvae.networks import declare_parameters

__all__ = ["DequantizedDensity", "DequantizedFlow"]


class DequantizedDensity(TorchDistribution):
    """Counts x next to a noise u: the density p_v(x + u) of a continuous v, event shape (D,).

    Over x and u ∈ [0, 1)^D together it is one distribution: x = ⌊v⌋, u = v − ⌊v⌋. Given u alone it is not
    normalized over x, so it scores and does not sample.

    Args:
        continuous: the distribution of v.
        noise: u, shape (..., D).
        total: the largest count.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012  (torch's own declaration)

    def __init__(self, continuous: TorchDistribution, noise: Tensor, total: int) -> None:
        self.continuous = continuous
        self.noise = noise
        self.total = total
        super().__init__(noise.shape[:-1], noise.shape[-1:], validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.integer_interval(0, self.total), 1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log p_v(value + u) in nats; value of shape (..., D)."""
        return self.continuous.log_prob(value + self.noise)

    def expand(self, batch_shape: Any, _instance: Any = None) -> DequantizedDensity:
        """The same with its batch shape expanded."""
        return DequantizedDensity(self.continuous, self.noise.expand(*batch_shape, self.noise.shape[-1]), self.total)


class DequantizedFlow(FlowModel):
    """Counts x = ⌊v⌋ with v = T(u) a flow: sites "noise" and "x", of event shape (D,), in a plate "data".

    The probability of a datum is an integral over its cell,

        P(x) = ∫_{[0,1)^D} p_v(x + noise) d noise,

    which is not known in closed form. With a guide q(noise | x) for the integral,

    - the ELBO E_q[log p_v(x + noise) − log q] is a *lower bound* of log P(x), in nats of the discrete data;
    - log (1/K) Σ_k p_v(x + noise_k) / q(noise_k) is in expectation a *tighter lower bound*, and converges to log P(x)
      as K grows (Burda et al. 2016);
    - `UniformNoise` is the guide of uniform dequantization, `FlowNoise` that of variational dequantization.

    Nothing else is approximate: the logit's Jacobian is in p_v. With alpha = 0 the P(x) of all count vectors
    sum to 1. With alpha > 0 they sum to the mass that the flow gives to [0, total + 1)^D, which is below 1: bits/dim
    are then a valid, and slightly too long, code length.

    Args:
        transform: a lazy transform in logit space whose call is the *normalizing* direction.
        features: D.
        total: the largest count.
        alpha: of `Logit`.

    References:
        Theis, van den Oord & Bethge (2016), "A note on the evaluation of generative models"; Ho et al. (2019).

    Raises:
        FlowvaeError: for a total below 1, an alpha outside [0, 0.5), or data that are not counts from 0 to total.
    """

    def __init__(self, transform: LazyTransform, features: int, total: int, alpha: float = 0.05) -> None:
        check_int_value("DequantizedFlow.total", total)
        super().__init__(LazyComposedTransform(Logit(total, alpha), transform), features)
        self.total = total
        self.alpha = alpha

    def forward(self, x: Tensor | None = None, size: int | None = None) -> Tensor:
        """The model: observes counts x of shape (N, D), or generates `size` new data.

        Observing, the noise is a latent variable; generating, v is drawn and x = ⌊v⌋ follows from it.

        Raises:
            FlowvaeError: if neither is given, or for data of another shape or type, or that are not counts.
        """
        declare_parameters("model", self)
        with pyro.plate("data", batch_size(x, size, self, self.features)):
            continuous = to_pyro(self.flow())
            if x is None:
                return pyro.deterministic("x", self._count(pyro.sample("v", continuous)), event_dim=1)
            self._check(x)
            noise = pyro.sample("noise", dist.Uniform(torch.zeros_like(x), torch.ones_like(x)).to_event(1))
            return pyro.sample("x", DequantizedDensity(continuous, noise, self.total), obs=x)

    def encode(self, x: Tensor) -> Tensor:
        """The base point u = T⁻¹(x + ½) of the middle of each cell, shape (..., D)."""
        return super().encode(x + 0.5)

    def decode(self, u: Tensor) -> Tensor:
        """The counts that u stands for, shape (..., D)."""
        return self._count(super().decode(u))

    def _count(self, v: Tensor) -> Tensor:
        return v.floor().clamp(0, self.total)  # for alpha > 0 a little of v lies outside

    def _check(self, x: Tensor) -> None:
        bad = ~((x >= 0) & (x <= self.total) & (x == x.round()))
        if bad.any():
            raise FlowvaeError(
                f"value {x[bad][0].item():g} ({int(bad.sum())} such values): must be whole numbers from 0 to "
                f"{self.total}. Scale the data to counts, or use FlowModel for real numbers."
            )
