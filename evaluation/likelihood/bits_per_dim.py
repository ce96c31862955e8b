"""How many nats, or bits/dim, a flow spends on a datum: exact where there is no noise, bounds where there is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from flowvae.core.errors import FlowvaeError
from flowvae.core.memory import check_memory
from flowvae.core.seeds import derive, seeded
from flowvae.evaluation.likelihood.elbo_and_nll import distrust
from flowvae.evaluation.likelihood.importance_weights import ROWS, log_mean
from flowvae.evaluation.metric import Metric, mean_metric
from flowvae.networks import check_rows, in_eval_mode

__all__ = ["FlowLikelihoods", "flow_metrics", "measure_flow"]

DRAWS = 25  # draws that are in memory at a time


@dataclass(frozen=True)
class FlowLikelihoods:
    """Log-likelihood of each datum, shape (N,), in nats.

    Args:
        bound: E_q[log p(x, noise) − log q(noise | x)], the dequantized bound; for a model without noise, log p(x).
        log_likelihood: log (1/K) Σ_k of the weights, a tighter lower bound in expectation; without noise, log p(x).
        draws: K; 0 for a model without noise, whose figures are exact.
        effective_draws: (Σ w)² / Σ w² of K for each datum, shape (N,); None for a model without noise.
    """

    bound: Tensor
    log_likelihood: Tensor
    draws: int
    effective_draws: Tensor | None = None


@torch.no_grad()
@in_eval_mode
def measure_flow(
    model: Callable[..., Any], guide: Callable[..., Any], x: Tensor, draws: int = 100, seed: int = 0
) -> FlowLikelihoods:
    """Log-likelihood of each datum under a model/guide pair whose sites are all in a plate "data".

    Args:
        model: Pyro model, such as `FlowModel` or `DequantizedFlow`.
        guide: Pyro guide, such as `NoGuide` or `UniformNoise`.
        x: data, shape (N, D).
        draws: K, for a guide that draws.
        seed: decides the draws.

    Raises:
        FlowvaeError: for fewer than one draw or more than fit into memory, or data of another shape or type.
    """
    if draws < 1:
        raise FlowvaeError(f"draws = {draws}: must be 1 or more.")
    check_rows("x", x)
    check_memory(f"draws = {draws}", draws * min(ROWS, len(x)) * x.itemsize, "use fewer")
    with pyro.validation_enabled(False):
        if not poutine.trace(guide).get_trace(x[:1]).stochastic_nodes:
            exact = torch.cat([_log_weight(model, guide, block, 1)[0] for block in x.split(ROWS * DRAWS)])
            return FlowLikelihoods(exact, exact, draws=0)
        bounds, totals, effective = [], [], []
        for number, block in enumerate(x.split(ROWS)):
            with seeded(derive(seed, "dequantize", number)):
                parts = [
                    _log_weight(model, guide, block, min(DRAWS, draws - start)) for start in range(0, draws, DRAWS)
                ]
            log_weight = torch.cat(parts)
            bounds.append(log_weight.mean(0))
            total, variance = log_mean(log_weight)
            totals.append(total)
            effective.append(draws / (1 + variance))
    return FlowLikelihoods(torch.cat(bounds), torch.cat(totals), draws, torch.cat(effective))


def flow_metrics(
    result: FlowLikelihoods, features: int, discrete: bool, split: str, protocol: dict[str, Any]
) -> list[Metric]:
    """The split's mean negative log-likelihood and its standard error over the data, as metrics.

    For counts they are bits/dim, −log₂ P(x) / D, a code length, once from the bound and once from K draws:
    "bits_per_dim_bound" and "bits_per_dim", both upper bounds in expectation. With uniform noise in many dimensions
    the second still falls as K grows, so it means nothing without its K. For real numbers −log p(x) depends on the
    units of the data and is no code length, so it stays in nats per datum: "nll", exact without noise.

    Args:
        result: what `measure_flow` gave.
        features: D.
        discrete: whether the data are counts.
        split: name of the split.
        protocol: identity of the data, seed; the draws are added.
    """
    protocol = protocol | {"draws": result.draws}
    effective = result.effective_draws
    caution = None if effective is None else distrust(effective, torch.full_like(effective, torch.nan))
    if not discrete:
        return [mean_metric("nll", -result.log_likelihood, "nats per datum", split, protocol, caution)]
    bits = 1 / (features * math.log(2))
    return [
        mean_metric("bits_per_dim_bound", -result.bound * bits, "bits/dim", split, protocol),
        mean_metric("bits_per_dim", -result.log_likelihood * bits, "bits/dim", split, protocol, caution),
    ]


def _log_weight(model: Callable[..., Any], guide: Callable[..., Any], x: Tensor, draws: int) -> Tensor:
    """Log p(x, noise) − log q(noise | x), shape (draws, N)."""
    plate = pyro.plate("draws", draws, dim=-2)
    guide_trace = poutine.trace(plate(guide)).get_trace(x)
    model_trace = poutine.trace(poutine.replay(plate(model), trace=guide_trace)).get_trace(x)
    total = x.new_zeros(draws, len(x))
    for trace, sign in ((model_trace, 1), (guide_trace, -1)):
        trace.compute_log_prob()
        for name in (*trace.observation_nodes, *trace.stochastic_nodes):
            total = total + sign * trace.nodes[name]["log_prob"]
    return total
