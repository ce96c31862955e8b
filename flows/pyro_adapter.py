"""The one place where zuko meets Pyro."""

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
    """A zuko distribution over R^D as a full Pyro distribution.

    It works where Pyro's own distributions do: `Predictive`, `.mask`, `.expand`, `.to_event`, NUTS,
    autoguides. A draw remembers its own log-density, because an inverse autoregressive flow knows that for
    free and would need D passes to find it again. One draw is remembered at a time, by a weak reference, and
    its density is given back only if it has the gradient that is asked for.

    Args:
        base: the distribution to wrap, with batch shape B and event shape (D,).
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012  (torch's own declaration)
    support = constraints.real_vector

    def __init__(self, base: Distribution, validate_args: bool | None = None) -> None:
        self.flow = base
        self._drawn: tuple[weakref.ref[Tensor], int, Tensor] | None = None
        super().__init__(base.batch_shape, base.event_shape, validate_args=validate_args)

    @property
    def has_rsample(self) -> bool:
        return bool(self.flow.has_rsample)

    def rsample(self, sample_shape: Any = Size()) -> Tensor:  # noqa: B008
        """Reparametrized draws, shape sample_shape + B + (D,)."""
        return self.rsample_and_log_prob(sample_shape)[0]

    def sample(self, sample_shape: Any = Size()) -> Tensor:  # noqa: B008
        """Draws without gradient, shape sample_shape + B + (D,)."""
        with torch.no_grad():
            return self.rsample(sample_shape) if self.has_rsample else self.flow.sample(Size(sample_shape))

    def rsample_and_log_prob(self, sample_shape: Any = Size()) -> tuple[Tensor, Tensor]:  # noqa: B008
        """Draws, shape sample_shape + B + (D,), and their log-densities in nats, shape sample_shape + B."""
        shape = Size(sample_shape)
        if hasattr(self.flow, "rsample_and_log_prob"):
            value, log_prob = self.flow.rsample_and_log_prob(shape)
        else:
            value = self.flow.rsample(shape)
            log_prob = self.flow.log_prob(value)
        # a tensor of inference mode counts no changes, so that it cannot be known again
        self._drawn = None if value.is_inference() else (weakref.ref(value), value._version, log_prob)
        return value, log_prob

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density in nats of values of shape (..., D), shape (...)."""
        if self._drawn is not None:
            drawn, version, log_prob = self._drawn
            # the same tensor object, unchanged since, and with a gradient wherever one may be asked for
            usable = log_prob.requires_grad or not torch.is_grad_enabled()
            if drawn() is value and value._version == version and usable:
                return log_prob
        if self._validate_args:
            self._validate_sample(value)
        return self.flow.log_prob(value)

    def __getstate__(self) -> dict[str, Any]:
        # a copy has not drawn anything; weak references can be neither copied nor pickled
        return {**self.__dict__, "_drawn": None}

    def expand(self, batch_shape: Any, _instance: Any = None) -> PyroFlow:
        """The same distribution with its batch shape expanded."""
        return PyroFlow(self.flow.expand(Size(batch_shape)), validate_args=self._validate_args)


def to_pyro(distribution: Distribution) -> TorchDistributionMixin:
    """A torch or zuko distribution as a Pyro one; a Pyro one as it is."""
    if isinstance(distribution, TorchDistributionMixin):
        return distribution
    return PyroFlow(distribution)
