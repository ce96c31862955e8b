"""Log-likelihoods of flows in nats or bits/dim: exact, or lower bounds with dequantization noise."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from torch import Tensor

from flowvae.core.errors import FlowvaeError
from flowvae.core.memory import check_memory
from flowvae.core.seeds import derive, seeded
from flowvae.data.batch import Batch
from flowvae.evaluation.likelihood.elbo_and_nll import distrust
from flowvae.evaluation.likelihood.importance_weights import ROWS, check_data, log_mean
from flowvae.evaluation.likelihood.sampler import Sampler
from flowvae.evaluation.metric import Metric, mean_metric
from flowvae.inference.log_density import sample_latents
from flowvae.networks import in_eval_mode

__all__ = ["FlowLikelihoods", "flow_metrics", "measure_flow"]

DRAWS = 25  # draws of the noise at a time; fixed, so that no result depends on the available memory


@dataclass(frozen=True)
class FlowLikelihoods:
    """Log-likelihood of each data point, shape (N,), in nats.

    Args:
        bound: E_q[log p(x, noise) − log q(noise | x)], the dequantized bound; for a model without noise, log p(x).
        log_likelihood: log (1/K) Σ_k of the weights, a tighter lower bound in expectation; without noise, log p(x).
        draws: K; 0 for a model without noise, whose values are exact.
        effective_draws: (Σ w)² / Σ w² of K for each data point, shape (N,); None for a model without noise.
    """

    bound: Tensor
    log_likelihood: Tensor
    draws: int
    effective_draws: Tensor | None = None


@torch.no_grad()
@in_eval_mode
def measure_flow(
    model: Callable[..., Any], guide: Callable[..., Any], x: Tensor | Batch, draws: int = 100, seed: int = 0
) -> FlowLikelihoods:
    """Estimate the log-likelihood of each data point under a pair whose sites are all in one plate of the data.

    Args:
        model: Pyro model, such as `FlowModel` or `DequantizedFlow`.
        guide: Pyro guide, such as `NoGuide` or `UniformNoise`.
        x: data, shape (N, *event shape), or a batch with a condition.
        draws: K, for a guide with latent sites.
        seed: random seed of the draws.

    Raises:
        FlowvaeError: for fewer than one draw or more than fit into memory, data of another shape or type, and as
            `Sampler`.
    """
    if draws < 1:
        raise FlowvaeError(f"draws = {draws}: must be 1 or more.")
    batch = check_data(guide, x)
    check_memory(f"draws = {draws}", draws * min(ROWS, len(batch)) * batch.x.dtype.itemsize, "use fewer")
    sampler = Sampler(model, guide)
    with pyro.validation_enabled(False):
        if not sample_latents(guide, next(batch.split(1)), 1):
            exact = torch.cat([sampler(block, 1).log_weight[0] for block in batch.split(ROWS * DRAWS)])
            return FlowLikelihoods(exact, exact, draws=0)
        bounds, totals, effective = [], [], []
        for number, block in enumerate(batch.split(ROWS)):
            with seeded(derive(seed, "dequantize", number)):
                parts = [sampler(block, min(DRAWS, draws - start)).log_weight for start in range(0, draws, DRAWS)]
            log_weight = torch.cat(parts)
            bounds.append(log_weight.mean(0))
            total, variance = log_mean(log_weight)
            totals.append(total)
            effective.append(draws / (1 + variance))
    return FlowLikelihoods(torch.cat(bounds), torch.cat(totals), draws, torch.cat(effective))


def flow_metrics(
    result: FlowLikelihoods, features: int, discrete: bool, split: str, protocol: dict[str, Any]
) -> list[Metric]:
    """Mean negative log-likelihood of the split with its standard error over the data, as metrics.

    For counts the unit is bits/dim, −log₂ P(x) / D, a code length: "bits_per_dim_bound" from the bound and
    "bits_per_dim" from K draws, both upper bounds in expectation. With uniform noise in many dimensions the second
    still falls as K grows, so always report it with K. For real numbers −log p(x) depends on the units of the data and
    is not a code length, so "nll" is in nats per data point, exact without noise.

    Args:
        result: result of `measure_flow`.
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
