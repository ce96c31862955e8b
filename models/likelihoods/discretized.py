"""The mixture of discretized logistics: a smooth density, integrated over one bin per count."""

from __future__ import annotations

from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.nn import functional as F

__all__ = ["DiscretizedLogisticMixture"]


class DiscretizedLogisticMixture(TorchDistribution):
    """P(x) = Σ_k π_k [σ((y + h − μ_k)/s_k) − σ((y − h − μ_k)/s_k)] for counts x = 0, …, total.

    y = 2x/total − 1 is the count scaled to [−1, 1] and h = 1/total half a bin. The first bin begins at −∞
    and the last one ends at +∞, so the probabilities sum to one. Neighbouring counts share parameters, unlike the
    classes of a categorical.

    A difference of sigmoids loses precision in the tails, but the equivalent product does not, so no case needs an
    approximation: σ(a) − σ(b) = σ(a) σ(−b) (1 − e^{b−a}) for a > b.

    Args:
        logits: log π_k up to a constant, shape (..., K).
        loc: μ_k in units of [−1, 1], shape (..., K).
        log_scale: log s_k in the same units, shape (..., K).
        total: the largest count.

    References:
        Salimans et al. (2017), "PixelCNN++".
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "logits": constraints.real_vector,
        "loc": constraints.real_vector,
        "log_scale": constraints.real_vector,
    }

    def __init__(
        self, logits: Tensor, loc: Tensor, log_scale: Tensor, total: int, validate_args: bool | None = None
    ) -> None:
        self.logits, self.loc, self.log_scale = torch.broadcast_tensors(logits, loc, log_scale)
        self.total = total
        super().__init__(self.logits.shape[:-1], validate_args=validate_args)

    @property
    def support(self) -> Any:
        """Whole numbers from 0 to total."""
        return constraints.integer_interval(0, self.total)

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> DiscretizedLogisticMixture:
        """Expand the batch shape."""
        shape = (*batch_shape, self.logits.shape[-1])
        logits, loc, log_scale = (part.expand(shape) for part in (self.logits, self.loc, self.log_scale))
        return DiscretizedLogisticMixture(logits, loc, log_scale, self.total, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Compute log P(value) in nats, for counts of the batch shape."""
        if self._validate_args:
            self._validate_sample(value)
        value = value.unsqueeze(-1)
        scale = self.log_scale.exp()
        middle = (2 * value / self.total - 1 - self.loc) / scale
        half = 1 / (self.total * scale)
        below, above = F.logsigmoid(middle + half), F.logsigmoid(half - middle)
        first, last = value == 0, value == self.total
        inside = below.where(~last, 0.0) + above.where(~first, 0.0)
        inside = inside + (-torch.expm1(-2 * half)).log().where(~(first | last), 0.0)
        return (self.logits.log_softmax(-1) + inside).logsumexp(-1)

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draw counts, shape sample_shape + batch shape: a draw of the mixture, rounded to its bin."""
        component = dist.Categorical(logits=self.logits, validate_args=False).sample(sample_shape).unsqueeze(-1)
        shape = (*component.shape[:-1], self.logits.shape[-1])
        loc = self.loc.expand(shape).gather(-1, component).squeeze(-1)
        scale = self.log_scale.expand(shape).gather(-1, component).squeeze(-1).exp()
        tiny = torch.finfo(loc.dtype).eps
        noise = torch.logit(torch.rand_like(loc), eps=tiny)
        return ((loc + scale * noise + 1) * self.total / 2).round().clamp(0, self.total)
