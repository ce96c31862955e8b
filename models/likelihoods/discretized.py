"""Discretized logistics: a smooth density, integrated over one bin per count."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Size, Tensor

__all__ = ["DiscretizedLogistic", "bin_log_prob", "bin_mean", "bin_sample"]

NARROW = 0.5  # bins: below this scale the mean is a sum over a window of bins
WINDOW = 5  # bins on both sides of the location


def bin_log_prob(value: Tensor, loc: Tensor, log_scale: Tensor, total: int) -> Tensor:
    """Compute log [σ((y + h − μ)/s) − σ((y − h − μ)/s)] in nats, the log-probability of a count.

    y = 2x/total − 1 is the count scaled to [−1, 1] and h = 1/total half a bin. The first bin begins at −∞ and the last
    one ends at +∞, so the probabilities sum to one.

    A difference of sigmoids loses precision in the tails, but the equivalent product does not, so no case needs an
    approximation: σ(a) − σ(b) = σ(a) σ(−b) (1 − e^{b−a}) for a > b. It takes three exponentials and one logarithm.

    Args:
        value: counts x, broadcast with the parameters.
        loc: μ in units of [−1, 1].
        log_scale: log s in the same units.
        total: the largest count.
    """
    found: Tensor = _BinLogProb.apply(*torch.broadcast_tensors(value.to(loc.dtype), loc, log_scale), total)
    return found


class _BinLogProb(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, loc: Tensor, log_scale: Tensor, total: int) -> Tensor:
        first, last = value == 0, value == total
        precision = log_scale.neg().exp_()
        half = precision * (1 / total)
        middle = (value * (2 / total) - 1 - loc) * precision
        above = (half + middle).masked_fill_(last, math.inf)
        below = (half - middle).masked_fill_(first, math.inf)
        width = _width(half).masked_fill(first | last, 1)
        # log σ(a) = min(a, 0) − log(1 + e^−|a|)
        tails = above.clamp_max(0).add_(below.clamp_max(0))
        factors = above.abs_().neg_().exp_().add_(1).mul_(below.abs_().neg_().exp_().add_(1))
        return (width / factors).log_().add_(tails)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, int], output: Tensor) -> None:
        value, loc, log_scale, ctx.total = inputs
        ctx.save_for_backward(value, loc, log_scale)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[None, Tensor, Tensor, None]:
        value, loc, log_scale = ctx.saved_tensors
        first, last = value == 0, value == ctx.total
        precision = (-log_scale).exp()
        half = precision / ctx.total
        middle = (value * (2 / ctx.total) - 1 - loc) * precision
        above = torch.sigmoid(-half - middle).masked_fill(last, 0)
        below = torch.sigmoid(middle - half).masked_fill(first, 0)
        width = (2 * half * (-2 * half).exp() / _width(half)).masked_fill(first | last, 0)
        of_middle = above - below
        of_scale = middle * of_middle + half * (above + below) + width
        return None, -slope * of_middle * precision, -slope * of_scale, None


def _width(half: Tensor) -> Tensor:
    """Compute 1 − e^{−2h} as tanh(h) (1 + e^{−2h}): exact for small h as well, in less than half of expm1's time."""
    return ((-2 * half).exp() + 1) * half.tanh()


def bin_mean(loc: Tensor, log_scale: Tensor, total: int) -> Tensor:
    """Compute E[x] = Σ_{j=1}^{total} P(x ≥ j) = Σ_j σ((μ − j + 1/2)/s) to 0.002 counts, μ and s in counts.

    For a scale above half a bin, the sum is computed as an integral with an endpoint correction (Euler–Maclaurin); for
    a smaller one, only the terms near μ differ from 0 and 1.

    Args:
        loc: μ in units of [−1, 1].
        log_scale: log s in the same units.
        total: the largest count.
    """
    loc, scale = (loc + 1) * total / 2, log_scale.exp() * total / 2
    narrow = scale.clamp_max(NARROW)
    start = loc.round().clamp(WINDOW, max(WINDOW, total - WINDOW)) - WINDOW  # terms up to here are 1
    window = start.clone()
    for step in range(1, min(2 * WINDOW, total) + 1):
        window = window + torch.sigmoid((loc - start - step + 0.5) / narrow)
    wide = scale.clamp_min(NARROW)
    lower, upper = (loc / wide).abs(), ((loc - total) / wide).abs()
    area = loc.clamp(0, total) + wide * (torch.log1p(torch.exp(-lower)) - torch.log1p(torch.exp(-upper)))
    ends = (_bump(upper) - _bump(lower)) / (24 * wide)
    return torch.where(scale < NARROW, window, area + ends).clamp(0, total)


def bin_sample(loc: Tensor, log_scale: Tensor, total: int) -> Tensor:
    """Draw counts of the shape of the parameters: logistic draws, rounded to their bins."""
    noise = torch.logit(torch.rand_like(loc), eps=torch.finfo(loc.dtype).eps)
    return ((loc + log_scale.exp() * noise + 1) * total / 2).round().clamp(0, total)


def _bump(u: Tensor) -> Tensor:
    """The logistic density σ(u) σ(−u)."""
    return torch.sigmoid(u) * torch.sigmoid(-u)


class DiscretizedLogistic(TorchDistribution):
    """A discretized logistic distribution of counts 0, …, total.

    Args:
        loc: μ in units of [−1, 1].
        log_scale: log s in the same units, broadcast with it.
        total: the largest count.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"loc": constraints.real, "log_scale": constraints.real}

    def __init__(self, loc: Tensor, log_scale: Tensor, total: int, validate_args: bool | None = None) -> None:
        self.loc, self.log_scale = torch.broadcast_tensors(loc, log_scale)
        self.total = total
        super().__init__(self.loc.shape, validate_args=validate_args)

    @property
    def support(self) -> Any:
        """Whole numbers from 0 to total."""
        return constraints.integer_interval(0, self.total)

    def expand(self, batch_shape: Size, _instance: object = None) -> DiscretizedLogistic:
        """Expand the batch shape."""
        loc, log_scale = self.loc.expand(batch_shape), self.log_scale.expand(batch_shape)
        new = DiscretizedLogistic(loc, log_scale, self.total, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Compute log P(value) in nats, for counts of the batch shape."""
        if self._validate_args:
            self._validate_sample(value)
        return bin_log_prob(value, self.loc, self.log_scale, self.total)

    @property
    def mean(self) -> Tensor:
        """E[x], to 0.002 counts."""
        return bin_mean(self.loc, self.log_scale, self.total)

    @torch.no_grad()
    def sample(self, sample_shape: Any = Size()) -> Tensor:  # noqa: B008
        """Draw counts, shape sample_shape + batch shape."""
        shape = (*sample_shape, *self.batch_shape)
        return bin_sample(self.loc.expand(shape), self.log_scale.expand(shape), self.total)
