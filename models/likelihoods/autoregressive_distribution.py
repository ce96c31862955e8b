"""The joint distribution of an autoregressive network, as a Pyro distribution."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Size, Tensor

from flowvae.core.progress import bar
from flowvae.models.likelihoods.autoregressive_likelihoods import AutoregressiveLikelihood
from flowvae.networks import CausalNetwork

__all__ = ["AutoregressiveDistribution"]


class AutoregressiveDistribution(TorchDistribution):
    """Autoregressive distribution, p(x) = Π_i p(x_i | x_1, …, x_{i−1}, c) over the D values of x in raster order.

    The density takes one pass of the network, a draw D passes, one per value.

    Args:
        network: gives the parameters of all D conditionals.
        head: the conditionals' family.
        shape: event shape of x, of D values.
        context: c, shape (..., C), if the network takes one; its batch shape is the distribution's.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    has_rsample = False

    def __init__(
        self,
        network: CausalNetwork,
        head: AutoregressiveLikelihood,
        shape: Size,
        context: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.network = network
        self.head = head
        self.context = context
        batch = Size() if context is None else context.shape[:-1]
        super().__init__(batch, Size(shape), validate_args=validate_args)

    @property
    def support(self) -> Any:
        """The support of the head for every value."""
        probe = self.head.center.new_zeros(self.network.features, self.network.parameters_each)
        return constraints.independent(self.head(probe).support, len(self.event_shape))

    def expand(self, batch_shape: Size, _instance: object = None) -> AutoregressiveDistribution:
        """Expand the batch shape."""
        new = AutoregressiveDistribution(self.network, self.head, self.event_shape, self.context, validate_args=False)
        super(AutoregressiveDistribution, new).__init__(Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Compute log p(value) exactly, in nats, shape (..., *shape) → (...)."""
        if self._validate_args:
            self._validate_sample(value)
        flat = value.flatten(-len(self.event_shape))
        parameters = self.network(self.head.standardize(flat), self.context)
        each = self.head(parameters).log_prob(flat).sum(-1)
        # copies made by a plate share one pass of the network
        return each.expand(torch.broadcast_shapes(each.shape, self.batch_shape))

    @torch.no_grad()
    def sample(self, sample_shape: Any = Size(), progress: bool = False) -> Tensor:  # noqa: B008
        """Draw by ancestral sampling: shape sample_shape + batch shape + event shape, without a gradient."""
        batch = Size(sample_shape) + self.batch_shape
        x = self.head.center.expand(*batch, self.network.features).clone()
        values = range(self.network.features)
        for i in bar("sampling", "value", len(values), values, progress):
            # later values are not set yet: no output for x_i depends on them, and their draws are discarded
            parameters = self.network(self.head.standardize(x), self.context)
            x[..., i] = self.head(parameters).sample()[..., i].to(x.dtype)
        return x.reshape(*batch, *self.event_shape)
