"""The universal flow in one dimension: the inverse of a cumulative distribution function."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, MixtureSameFamily, Transform, biject_to, constraints

from flowvae.core.errors import FlowvaeError
from flowvae.flows.residual.roots import monotone_root

__all__ = ["InverseCDFTransform"]


class InverseCDFTransform(Transform):
    """Element-wise transform u = Φ⁻¹(F(z)), the *normalizing* direction; its inverse is z = F⁻¹(Φ(u)).

    Every continuous distribution on the real line is N(0, 1) pushed through a unique increasing map, the inverse of
    this one. log|du/dz| = log p(z) − log φ(u), in nats.

    F rounds to 1 in the upper tail, where z can no longer be resolved: u stays below 8.2 in float64 and 5.3 in
    float32. In the lower tail u reaches −37 and −13.

    Args:
        distribution: a univariate torch or Pyro distribution of batch shape B with a `cdf`. Without an `icdf`, F⁻¹
            is found by bisection and Newton steps. The shape of values must broadcast with B.

    Raises:
        FlowvaeError: if the distribution is not univariate, is discrete, or has no `cdf`.

    References:
        Papamakarios et al. (2021), "Normalizing Flows for Probabilistic Modeling and Inference", section 2.2.

    >>> from torch.distributions import Exponential
    >>> flow = InverseCDFTransform(Exponential(1.0))
    >>> flow.inv(torch.tensor(0.0)).isclose(torch.tensor(2.0).log()).item()  # medians meet
    True
    """

    codomain = constraints.real
    bijective = True

    def __init__(self, distribution: Distribution) -> None:
        super().__init__()
        name = type(distribution).__name__
        support: Any = distribution.support
        if distribution.event_shape or support.is_discrete:
            raise FlowvaeError(f"InverseCDFTransform({name}): must be a univariate continuous distribution.")
        self.distribution: Any = distribution
        self.domain = support
        if isinstance(distribution, MixtureSameFamily):  # torch has no bijection to a mixture's support
            support = distribution.component_distribution.support
        self._onto = biject_to(support)
        try:
            distribution.cdf(self._onto(torch.zeros(())))
        except NotImplementedError as error:
            raise FlowvaeError(
                f"InverseCDFTransform({name}): must have a cdf. Use a distribution with one, such as Normal, Gamma, "
                "Weibull, or a MixtureSameFamily of them."
            ) from error

    def _cdf(self, z: Tensor) -> Tensor:
        return _inside(self.distribution.cdf(z))

    def _call(self, x: Tensor) -> Tensor:
        return torch.special.ndtri(self._cdf(x))

    def _inverse(self, y: Tensor) -> Tensor:
        p = _inside(torch.special.ndtr(y))
        try:
            return self.distribution.icdf(p)
        except NotImplementedError:
            return self._search(p)

    def _search(self, p: Tensor) -> Tensor:
        """Compute F⁻¹(p) from F alone, by root-finding over R, mapped onto the support."""

        def excess(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            z = self._onto(t)
            slope = (self.distribution.log_prob(z) + self._onto.log_abs_det_jacobian(t, z)).exp()
            return self.distribution.cdf(z) - p, slope, p

        with torch.no_grad():
            start = torch.zeros_like(excess(torch.zeros_like(p))[0])
            low, high = start - 1, start + 1
            for _ in range(math.ceil(math.log2(torch.finfo(p.dtype).max)) // 2):
                below, above = excess(low)[0] > 0, excess(high)[0] < 0
                if not (below | above).any():
                    break
                low, high = torch.where(below, 2 * low, low), torch.where(above, 2 * high, high)
        return self._onto(monotone_root(excess, low, high))

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Compute log|du/dz| element by element, in nats."""
        return self.distribution.log_prob(x) + y.square() / 2 + math.log(2 * math.pi) / 2


def _inside(p: Tensor) -> Tensor:
    """Clamp a probability away from 0 and 1, where Φ⁻¹ is infinite."""
    finfo = torch.finfo(p.dtype)
    return p.clamp(finfo.tiny, 1 - finfo.eps / 2)
