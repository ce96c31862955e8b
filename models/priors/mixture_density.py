"""Mixtures with many components as distributions, computed in blocks of bounded memory."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Self

import torch
from pyro.distributions import Categorical, TorchDistribution, constraints
from torch import Size, Tensor
from torch.distributions import Distribution

__all__ = ["ComponentMixture", "IsotropicMixture", "isotropic_log_prob"]

VALUES = 2**22  # numbers in memory at a time, for each intermediate result
DRAWS = 4096  # at a time


class LargeMixture(TorchDistribution):
    """Mixture p(z) = Σ_k w_k p_k(z) over R^D, computed in blocks of bounded memory; draws have no gradient.

    Args:
        log_weights: log w_k up to a constant, shape (K,).
        features: D.
        values: numbers in memory per code.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector
    has_rsample = False

    def __init__(self, log_weights: Tensor, features: int, values: int) -> None:
        self.log_weights = log_weights.log_softmax(-1)
        self.rows = max(1, VALUES // values)
        super().__init__(Size(), Size((features,)), validate_args=False)

    @abstractmethod
    def _log_probs(self, z: Tensor) -> Tensor:
        """Compute log p_k(z) in nats for codes (B, D), shape (B, K)."""

    @abstractmethod
    def _drawn(self, index: Tensor) -> Tensor:
        """Draw from the components with these indices (B,), shape (B, D)."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Compute the log-density in nats, (..., D) → (...)."""
        blocks = value.reshape(-1, value.shape[-1]).split(self.rows)
        parts = [torch.logsumexp(self._log_probs(z) + self.log_weights, -1) for z in blocks]
        return torch.cat(parts).reshape(value.shape[:-1])

    @torch.no_grad()
    def sample(self, sample_shape: Any = Size()) -> Tensor:  # noqa: B008
        """Draw codes of shape sample_shape + batch shape + (D,), without a gradient."""
        shape = self._extended_shape(Size(sample_shape))[:-1]
        index = Categorical(logits=self.log_weights).sample(Size((math.prod(shape),)))
        drawn = [self._drawn(block) for block in index.split(DRAWS)]
        return torch.cat(drawn).reshape(*shape, *self.event_shape)

    def expand(self, batch_shape: Any, _instance: object = None) -> Self:
        """Expand the batch shape."""
        new = type(self).__new__(type(self))
        new.__dict__.update(self.__dict__)
        TorchDistribution.__init__(new, Size(batch_shape), self.event_shape, validate_args=False)
        return new


class ComponentMixture(LargeMixture):
    """Mixture of the distributions in a batch, of any family.

    Args:
        components: the p_k, batch shape (K,) and event shape (D,).
        log_weights: log w_k up to a constant, shape (K,).
        draw: function of component indices (B,) that returns one draw of each, shape (B, D).
    """

    def __init__(self, components: Distribution, log_weights: Tensor, draw: Callable[[Tensor], Tensor]) -> None:
        self.components = components
        self.draw = draw
        features = components.event_shape[0]
        super().__init__(log_weights, features, len(log_weights) * features)

    def _log_probs(self, z: Tensor) -> Tensor:
        # expanded: the transforms of a flow do not broadcast
        return self.components.log_prob(z.unsqueeze(-2).expand(-1, len(self.log_weights), -1))

    def _drawn(self, index: Tensor) -> Tensor:
        return self.draw(index)


class IsotropicMixture(LargeMixture):
    """Mixture of N(μ_k, σ² I), with all distances from one matrix product.

    Args:
        centres: μ_k, shape (K, D).
        scale: σ, a scalar tensor.
        log_weights: log w_k up to a constant, shape (K,); None: equal weights.
    """

    def __init__(self, centres: Tensor, scale: Tensor, log_weights: Tensor | None = None) -> None:
        self.centres = centres
        self.scale = scale
        log_weights = centres.new_zeros(len(centres)) if log_weights is None else log_weights
        super().__init__(log_weights, centres.shape[-1], len(centres))

    def _log_probs(self, z: Tensor) -> Tensor:
        return isotropic_log_prob(z, self.centres, self.scale)

    def _drawn(self, index: Tensor) -> Tensor:
        centres = self.centres[index]
        return centres + self.scale * torch.randn_like(centres)


def isotropic_log_prob(z: Tensor, centres: Tensor, scale: Tensor) -> Tensor:
    """Compute log N(z; μ_k, σ² I) in nats for codes (B, D) and centres (K, D), shape (B, K)."""
    middle = centres.detach().mean(0)  # subtracted, because smaller numbers lose fewer digits
    z, centres = (z - middle) / scale, (centres - middle) / scale
    square = z.square().sum(-1, keepdim=True) - 2 * z @ centres.T + centres.square().sum(-1)
    return -0.5 * square - z.shape[-1] * (scale.log() + 0.5 * math.log(2 * math.pi))
