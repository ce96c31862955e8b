"""The joint distribution of an autoregressive network: the product rule as a Pyro distribution."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from tqdm.auto import tqdm

from flowvae.models.likelihoods.autoregressive_likelihoods import AutoregressiveLikelihood
from flowvae.networks import CausalNetwork

__all__ = ["AutoregressiveDistribution"]


class AutoregressiveDistribution(TorchDistribution):
    """p(x) = Π_i p(x_i | x_1, …, x_{i−1}, c), event shape (D,).

    The density of given data takes one pass of the network, a draw takes D of them, one value after the other.

    Args:
        network: gives the parameters of all D conditionals.
        head: the conditionals' family.
        context: c, shape (..., C), if the network takes one; its batch shape is the distribution's.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    has_rsample = False

    def __init__(
        self,
        network: CausalNetwork,
        head: AutoregressiveLikelihood,
        context: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.network = network
        self.head = head
        self.context = context
        batch = torch.Size() if context is None else context.shape[:-1]
        super().__init__(batch, torch.Size((network.features,)), validate_args=validate_args)

    @property
    def support(self) -> Any:
        """D times the support of the head."""
        probe = self.head.center.new_zeros(self.network.features, self.network.parameters_each)
        return constraints.independent(self.head(probe).support, 1)

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> AutoregressiveDistribution:
        """The same distribution with a larger batch shape."""
        new = AutoregressiveDistribution(self.network, self.head, self.context, validate_args=False)
        super(AutoregressiveDistribution, new).__init__(torch.Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Exact log p(value) in nats, shape (..., D) → (...)."""
        if self._validate_args:
            self._validate_sample(value)
        parameters = self.network(self.head.standardize(value), self.context)
        each = self.head(parameters).log_prob(value).sum(-1)
        # copies that a plate made of this distribution share one pass of the network
        return each.expand(torch.broadcast_shapes(each.shape, self.batch_shape))

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size(), progress: bool = False) -> Tensor:  # noqa: B008
        """Ancestral sampling: draws of shape sample_shape + batch shape + (D,), without a gradient."""
        x = self.head.center.expand(self._extended_shape(torch.Size(sample_shape))).clone()
        bar = tqdm(range(self.network.features), desc="sampling", unit="value", disable=None if progress else True)
        for i in bar:
            # later values are not set yet; the network does not look at them, and their draws are thrown away
            parameters = self.network(self.head.standardize(x), self.context)
            x[..., i] = self.head(parameters).sample()[..., i].to(x.dtype)
        return x
