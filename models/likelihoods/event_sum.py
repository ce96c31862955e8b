"""Log-probabilities of whole events of counts, without what each value alone would cost.

log p(x) is the sum of a kernel, which depends on parameters and data, and of the logarithm of the base measure, such as
a binomial coefficient, which depends on the data alone and is the same for all draws of a code.

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

# Factors of a product, each at most 2, so that it is far below the largest float32. The rounding of its logarithm grows
# with their number, and is multiplied by n: no larger than that of single softplus at 8 factors.
FACTORS_OF_BITS, FACTORS = 64, 8


class Counts(TorchDistributionMixin):
    """A family of counts whose log-probability is a kernel plus the logarithm of a base measure."""

    @property
    def dtype(self) -> torch.dtype:
        """The type of the parameters and of log-probabilities."""
        raise NotImplementedError

    def log_kernel(self, value: Tensor, event: int) -> Tensor:
        """Sum the part that depends on the parameters over the rightmost dimensions; in float64 if that matters.

        Args:
            value: counts, in the shape of the parameters.
            event: number of dimensions to sum over.
        """
        raise NotImplementedError

    def log_base_measure(self, value: Tensor) -> Tensor:
        """Compute the part that depends on the counts alone, in their shape."""
        return torch.zeros_like(value)

    def log_prob(self, value: Tensor) -> Tensor:
        """Compute the log-probability of counts, broadcast with the parameters."""
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
        """Compute the log-probability of values that repeat after so many rows, such as data under S draws of a code.

        Args:
            value: N data points, repeated S times, shape (S · N, *event shape), the batch shape of this distribution.
            rows: N.

        Returns:
            Nats, shape (S · N,).
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

    Subclasses have `logits` and `trials`, n.
    """

    logits: Tensor
    trials: int = 1

    @property
    def dtype(self) -> torch.dtype:
        """The type of the logits."""
        return self.logits.dtype

    def log_kernel(self, value: Tensor, event: int) -> Tensor:
        """Compute Σ_j (x_j l_j − n softplus(l_j))."""
        logits = self.logits
        if event == 0:
            return logit_sum(logits.unsqueeze(-1), value.unsqueeze(-1), self.trials)
        return logit_sum(logits.flatten(-event), value.flatten(-event), self.trials)


def precise(x: Tensor) -> Tensor:
    """Convert to float64, for terms that nearly cancel; Apple's devices have no float64."""
    return x if x.device.type == "mps" else x.double()


def precise_sum(values: Tensor, event: int) -> Tensor:
    """Sum over the rightmost dimensions in float64, for sums that nearly cancel; Apple's devices have no float64."""
    if event == 0:
        return values
    dtype = None if values.device.type == "mps" else torch.float64
    return values.flatten(-event).sum(-1, dtype=dtype)


def logit_sum(logits: Tensor, value: Tensor, trials: int = 1) -> Tensor:
    """Compute Σ_j (x_j l_j − n softplus(l_j)) over the last axis, (..., P) → (...), with all derivatives.

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
    """Logarithms of products of so many 1 + e over the last axis, for 0 ≤ e ≤ 1; overwrites e.

    Pairs are merged by 1 + (a + b + a b) = (1 + a)(1 + b), which keeps the relative precision of small terms.
    """
    while factors > 1 and e.shape[-1] > 1:
        half = (e.shape[-1] + 1) // 2
        first, second = e[..., : e.shape[-1] - half], e[..., half:]  # of an odd number, one remains as it is
        first.add_(torch.addcmul(second, first, second))
        e = e[..., :half]
        factors //= 2
    return e.log1p()
