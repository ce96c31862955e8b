"""Sampling importance resampling."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["importance_resampling"]

POOL = 2**16  # proposals in memory at a time


@torch.no_grad()
def importance_resampling(propose: Callable[[int], tuple[Tensor, Tensor]], count: int, proposals: int) -> Tensor:
    """Draw codes from an unnormalized density u by resampling proposals, shape (count, D).

    Each draw is one of M new proposals z_m ~ g, chosen with probability proportional to u(z_m)/g(z_m). The draws are
    independent and, with a continuous g, all different. Their density tends to u/Z as M grows, with an error of order
    1/M; M = 1 gives g itself. The cost is `count` · M proposals.

    Args:
        propose: function of a number n, returning draws of g, shape (n, D), and their log u/g in nats, shape (n,).
        count: number of draws.
        proposals: M.

    References:
        Rubin (1988), "Using the SIR algorithm to simulate posterior distributions".
    """
    chosen = []
    rows = max(1, POOL // proposals)
    for start in range(0, count, rows):
        n = min(rows, count - start)
        z, log_weights = propose(n * proposals)
        weights = log_weights.reshape(n, proposals).softmax(-1)
        index = torch.multinomial(weights, 1)
        chosen.append(z.reshape(n, proposals, -1)[torch.arange(n, device=index.device), index.squeeze(-1)])
    return torch.cat(chosen)
