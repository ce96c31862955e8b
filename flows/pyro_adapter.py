"""Adapter from zuko's distributions to Pyro's."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from pyro.distributions import TorchDistribution, constraints
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Size, Tensor
from torch.distributions import Distribution

__all__ = ["PyroFlow", "to_pyro"]


class PyroFlow(TorchDistribution):
    """A zuko distribution over vectors, or over arrays of real numbers, as a Pyro distribution.

    It supports `Predictive`, `.mask`, `.expand`, `.to_event`, NUTS and autoguides, like Pyro's own distributions. The
    log-density of the last draw is cached, because an inverse autoregressive flow computes it along with the draw and
    would need D passes to recompute it. The draw is kept by a weak reference, and the cached log-density is used only
    if it has a gradient or none is needed.

    Args:
        base: the distribution to wrap, with batch shape B and event shape (D,), or an event shape of more axes.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012  (torch's own declaration)

    def __init__(self, base: Distribution, validate_args: bool | None = None) -> None:
        self.flow = base
        self._drawn: tuple[weakref.ref[Tensor], int, Tensor] | None = None
        super().__init__(base.batch_shape, base.event_shape, validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.real, len(self.event_shape))

    @property
    def has_rsample(self) -> bool:
        """Whether draws have a complete gradient; false for a flow over a base without one, such as a mixture."""
        return bool(self.flow.has_rsample) and bool(getattr(getattr(self.flow, "base", None), "has_rsample", True))

    def rsample(self, sample_shape: Any = Size()) -> Tensor:  # noqa: B008
        """Draw reparametrized samples, shape sample_shape + B + (D,)."""
        return self.rsample_and_log_prob(sample_shape)[0]

    def sample(self, sample_shape: Any = Size()) -> Tensor:  # noqa: B008
        """Draw samples without a gradient, shape sample_shape + B + (D,)."""
        with torch.no_grad():
            # rsample also caches the log-density
            return self.rsample(sample_shape) if self.flow.has_rsample else self.flow.sample(Size(sample_shape))

    def rsample_and_log_prob(self, sample_shape: Any = Size()) -> tuple[Tensor, Tensor]:  # noqa: B008
        """Draw samples, shape sample_shape + B + (D,), with log-densities in nats, shape sample_shape + B."""
        shape = Size(sample_shape)
        if hasattr(self.flow, "rsample_and_log_prob"):
            value, log_prob = self.flow.rsample_and_log_prob(shape)
        else:
            value = self.flow.rsample(shape)
            log_prob = self.flow.log_prob(value)
        # an inference tensor has no version counter, so later changes could not be detected
        self._drawn = None if value.is_inference() else (weakref.ref(value), value._version, log_prob)
        return value, log_prob

    def log_prob(self, value: Tensor) -> Tensor:
        """Compute the log-density in nats, (..., D) → (...)."""
        if self._drawn is not None:
            drawn, version, log_prob = self._drawn
            # the same tensor object, unchanged since, and with a gradient if one may be needed
            usable = log_prob.requires_grad or not torch.is_grad_enabled()
            if drawn() is value and value._version == version and usable:
                return log_prob
        if self._validate_args:
            self._validate_sample(value)
        return self.flow.log_prob(value)

    def __getstate__(self) -> dict[str, Any]:
        # a copy starts without a cached draw; weak references can be neither copied nor pickled
        return {**self.__dict__, "_drawn": None}

    def expand(self, batch_shape: Any, _instance: Any = None) -> PyroFlow:
        """Expand the batch shape."""
        return PyroFlow(self.flow.expand(Size(batch_shape)), validate_args=self._validate_args)


def to_pyro(distribution: Distribution) -> TorchDistributionMixin:
    """Convert a torch or zuko distribution to a Pyro one; return a Pyro one unchanged."""
    if isinstance(distribution, TorchDistributionMixin):
        return distribution
    return PyroFlow(distribution)
