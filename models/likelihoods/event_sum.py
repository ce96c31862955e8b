"""Fast log-probabilities of events of many counts.

log p(x) is the sum of a kernel, which depends on parameters and data, and of the logarithm of the base measure, such as
a binomial coefficient. The latter depends on the data alone, so it is the same for all draws of a code.

With logits the kernel needs Σ_j log(1 + e_j). torch's softplus, log-sigmoid and binary cross-entropy compute one log1p
per value. On a CPU this takes 10 ns, four times as long as the matrix product that gave the logits. log Π_j (1 + e_j)
needs one logarithm for many values.
"""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

__all__ = ["Counts", "EventSum", "LogitCounts", "logit_sum", "precise", "precise_sum"]

# Number of factors in a product. Each is at most 2, so the product is far below the largest float32. The rounding error
# of its logarithm grows with this number and is multiplied by n: with 8 factors it is no larger than that of softplus.
FACTORS_OF_BITS, FACTORS = 64, 8


class Counts(TorchDistributionMixin):
    """Base class of distributions of counts whose log-probability is a kernel plus a log base measure."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the parameters and of log-probabilities."""
        raise NotImplementedError

    def log_kernel(self, value: Tensor, event: int) -> Tensor:
        """Compute the kernel, summed over the rightmost dimensions; in float64 where terms nearly cancel.

        Args:
            value: counts, in the shape of the parameters.
            event: number of dimensions to sum over.
        """
        raise NotImplementedError

    def log_base_measure(self, value: Tensor) -> Tensor:
        """Compute the log base measure of each count, in the shape of the value."""
        return torch.zeros_like(value)

    def log_prob(self, value: Tensor) -> Tensor:
        """Compute the log-probability in nats of counts, broadcast with the parameters."""
        return EventSum(self, 0).log_prob(value)

    def to_event(self, reinterpreted_batch_ndims: int | None = None) -> Any:
        """Reinterpret the rightmost dimensions, by default all of them, as dimensions of one event."""
        if reinterpreted_batch_ndims is None:
            reinterpreted_batch_ndims = len(self.batch_shape)
        return EventSum(self, reinterpreted_batch_ndims)


class EventSum(dist.Independent):
    """Independent counts as one event."""

    base_dist: Counts

    def log_prob(self, value: Tensor) -> Tensor:
        """Compute the log-probability in nats of values (..., *event shape), shape (...)."""
        return (self._log_kernel(value) + self._log_base_measure(value)).to(self.base_dist.dtype)

    def log_prob_repeated(self, value: Tensor, rows: int) -> Tensor:
        """Compute the log-probability of data repeated for S draws of a code, with one base measure per data point.

        Args:
            value: N data points, repeated S times, shape (S · N, *event shape), for a batch shape (S · N,).
            rows: N.

        Returns:
            Log-probabilities in nats, shape (S · N,).
        """
        kernel = self._log_kernel(value).unflatten(0, (-1, rows))
        return (kernel + self._log_base_measure(value[:rows])).flatten().to(self.base_dist.dtype)

    def _log_kernel(self, value: Tensor) -> Tensor:
        base = self.base_dist
        if base._validate_args:
            base._validate_sample(value)
        shape = torch.broadcast_shapes(value.shape, base.batch_shape)
        return base.expand(shape).log_kernel(value.expand(shape).to(base.dtype), self.reinterpreted_batch_ndims)

    def _log_base_measure(self, value: Tensor) -> Tensor:
        return precise_sum(self.base_dist.log_base_measure(value), self.reinterpreted_batch_ndims)


class LogitCounts(Counts):
    """Counts from 0 to n with the kernel x l − n softplus(l) of logits l.

    Subclasses define `logits` and `trials`, n.
    """

    logits: Tensor
    trials: int = 1

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the logits."""
        return self.logits.dtype

    def log_kernel(self, value: Tensor, event: int) -> Tensor:
        """Compute Σ_j (x_j l_j − n softplus(l_j))."""
        logits = self.logits
        if event == 0:
            return logit_sum(logits.unsqueeze(-1), value.unsqueeze(-1), self.trials)
        return logit_sum(logits.flatten(-event), value.flatten(-event), self.trials)


def precise(x: Tensor) -> Tensor:
    """Convert to float64, for terms that nearly cancel; on Apple's devices, which have no float64, do nothing."""
    return x if x.device.type == "mps" else x.double()


def precise_sum(values: Tensor, event: int) -> Tensor:
    """Sum over the rightmost dimensions, in float64 where the device has it, for sums that nearly cancel."""
    if event == 0:
        return values
    dtype = None if values.device.type == "mps" else torch.float64
    return values.flatten(-event).sum(-1, dtype=dtype)


def logit_sum(logits: Tensor, value: Tensor, trials: int = 1) -> Tensor:
    """Compute Σ_j (x_j l_j − n softplus(l_j)) over the last axis, (..., P) → (...), differentiable to any order.

    Args:
        logits: l, shape (..., P).
        value: x, any real numbers of the same shape.
        trials: n; above 1, the sum is in float64, since log C(n, x) will be added, which nearly cancels it.
    """
    found: Tensor = _LogitSum.apply(logits, value, trials)
    return found


class _LogitSum(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(logits: Tensor, value: Tensor, trials: int) -> Tensor:
        # softplus(l) = max(l, 0) + log(1 + e^−|l|); x l is subtracted from the first part value by value, since the
        # sums over all values are large and nearly equal
        positive = logits.clamp_min(0)
        excess = torch.sub(logits, positive, alpha=2).exp_()
        if trials == 1:
            missed = torch.addcmul(positive, value, logits, value=-1).sum(-1)
            return missed.add_(_log_products(excess, FACTORS_OF_BITS).sum(-1)).neg_()
        missed = precise_sum(torch.addcmul(positive.mul_(trials), value, logits, value=-1), 1)
        return missed.add_(precise_sum(_log_products(excess, FACTORS), 1), alpha=trials).neg_()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
        logits, value, ctx.trials = inputs
        ctx.save_for_backward(logits, value)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        logits, value = ctx.saved_tensors
        slope = slope.unsqueeze(-1).to(logits.dtype)
        of_logits = slope * torch.sub(value, torch.sigmoid(logits), alpha=ctx.trials)
        return of_logits, slope * logits if ctx.needs_input_grad[1] else None, None


def _log_products(e: Tensor, factors: int) -> Tensor:
    """Compute logarithms of products of up to `factors` terms 1 + e over the last axis, 0 ≤ e ≤ 1; overwrites e.

    Pairs are merged by 1 + (a + b + a b) = (1 + a)(1 + b), which keeps the relative precision of small terms.
    """
    while factors > 1 and e.shape[-1] > 1:
        half = (e.shape[-1] + 1) // 2
        first, second = e[..., : e.shape[-1] - half], e[..., half:]  # one of an odd number is unchanged
        first.add_(torch.addcmul(second, first, second))
        e = e[..., :half]
        factors //= 2
    return e.log1p()
