"""The importance-weighted bound for several numbers of samples, with diagnostics of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flowvae.core.errors import FlowvaeError, shown
from flowvae.core.progress import bar
from flowvae.data.batch import Batch
from flowvae.evaluation.context import EvaluationContext, MeasureResult
from flowvae.evaluation.likelihood.elbo_and_nll import distrust, khat_metrics
from flowvae.evaluation.likelihood.importance_weights import check_data, importance_draws, log_mean, parts_of
from flowvae.evaluation.likelihood.pareto_tail import pareto_k
from flowvae.evaluation.metric import Metric, mean_metric
from flowvae.evaluation.registry import measure

__all__ = ["IWAE", "measure_iwae"]

SAMPLES = (1, 10, 100, 1000, 5000)
GROUPS = 10  # number of groups above which their spread is a better standard error than the delta method


@dataclass(frozen=True)
class IWAE:
    """Bounds L_K = E[log (1/K) Σ_k w_k] ≤ log p(x) for N data points, in nats, from S draws of the guide each.

    Args:
        samples: values of K, ascending; `bound` and `standard_error` have one row for each.
        bound: estimates of L_K, the mean over S // K disjoint groups of draws, float64, shape (len(samples), N).
        standard_error: of `bound` over the draws, float64, shape (len(samples), N). From the spread between groups if
            there are ten or more, otherwise by the delta method, √(V / S).
        variance: estimate of V = Var(w) / mean(w)², the χ²-divergence of the posterior from the guide, shape (N,).
        pareto_k: shape of the weights' tail, shape (N,).
        draws: S.
    """

    samples: tuple[int, ...]
    bound: Tensor
    standard_error: Tensor
    variance: Tensor
    pareto_k: Tensor
    draws: int

    @property
    def effective_draws(self) -> Tensor:
        """(Σ w)² / Σ w², at most S, shape (N,)."""
        return self.draws / (1 + self.variance)

    @property
    def predicted_bias(self) -> Tensor:
        """L_K − log p(x) ≈ −V / (2 K), shape (len(samples), N); valid only if K is far above V.

        V is itself estimated from the draws and at most S − 1. If the guide misses the bulk of the posterior, the
        estimates show neither the bias nor V.
        """
        return -self.variance / (2 * torch.tensor(self.samples, dtype=torch.float64).unsqueeze(1))

    def metrics(self, split: str, protocol: dict[str, Any]) -> list[Metric]:
        """Means over the split with standard errors over the data: "iwae_K" for each K, effective draws, k̂.

        Args:
            split: name of the split.
            protocol: identity of the data, seed; the number of draws is added.
        """
        protocol = {**protocol, "draws": self.draws}
        caution = distrust(self.effective_draws, self.pareto_k)  # of the weights of all draws together
        pairs = zip(self.samples, self.bound, strict=True)
        bounds = {f"iwae_{number}": (bound, caution if number == self.draws else None) for number, bound in pairs}
        return [
            *(
                mean_metric(name, bound, "nats per datum", split, protocol, warning)
                for name, (bound, warning) in bounds.items()
            ),
            mean_metric("iwae_predicted_bias", self.predicted_bias[-1], "nats per datum", split, protocol, caution),
            mean_metric("iwae_effective_draws", self.effective_draws, "draws", split, protocol),
            *khat_metrics("iwae_", self.pareto_k, split, protocol),
        ]


def measure_iwae(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    x: Tensor | Batch,
    samples: Sequence[int] = SAMPLES,
    draws: int | None = None,
    seed: int = 0,
    compile: str = "capture",  # noqa: A002
    progress: bool = False,
) -> IWAE:
    """Estimate the bounds L_K of each data point for several K from the same draws.

    Args:
        model: Pyro model with any latent sites, in one plate of the data.
        guide: Pyro guide with the same sites.
        x: data, shape (N, *event shape), or a batch with a condition.
        samples: values of K.
        draws: S, at least the largest K, which is the default.
        seed: random seed of the draws; each block of 64 data points has its own random numbers.
        compile: "capture", "inductor" or "none"; see `Sampler`.
        progress: whether to show a progress bar, and a warning before long work.

    Raises:
        FlowvaeError: if there is no K, a K is not a whole number from 1 to S or occurs twice, and as
            `importance_draws`.

    References:
        Burda, Grosse & Salakhutdinov (2016), "Importance weighted autoencoders"; the bias: Nowozin (2018), "Debiasing
        evidence approximations"; k̂: Vehtari et al. (2024), "Pareto smoothed importance sampling".
    """
    counts = tuple(sorted(samples))
    if not counts or len(set(counts)) < len(counts) or any(type(k) is not int or k < 1 for k in counts):
        raise FlowvaeError(f"samples = {shown(samples)}: must be different whole numbers, each 1 or more.")
    draws = counts[-1] if draws is None else draws
    if draws < counts[-1]:
        raise FlowvaeError(f"draws = {draws}: must be at least the largest number of samples, {counts[-1]}.")
    batch = check_data(guide, x)
    bounds, errors, variances, shapes = [], [], [], []
    with bar(
        f"IWAE, {draws} draws per data point", "part", parts_of(len(batch), draws), progress=progress, announce=True
    ) as work:
        for block in importance_draws(model, guide, batch, draws, seed, compile, work.update):
            log_weight = block.log_weight.double().cpu()
            variance = log_mean(log_weight)[1]
            each = [_bound(log_weight, number, variance) for number in counts]
            bounds.append(torch.stack([bound for bound, _ in each]))
            errors.append(torch.stack([error for _, error in each]))
            variances.append(variance)
            shapes.append(pareto_k(log_weight))
    return IWAE(counts, torch.cat(bounds, 1), torch.cat(errors, 1), torch.cat(variances), torch.cat(shapes), draws)


def _bound(log_weight: Tensor, number: int, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Estimate L_K from log-weights (S, B), with standard error, each of shape (B,)."""
    draws = len(log_weight)
    groups = draws // number
    grouped = log_weight[: groups * number].unflatten(0, (number, groups))
    bounds = log_mean(grouped)[0]
    if groups < GROUPS:
        return bounds.mean(0), (variance / draws).sqrt()
    return bounds.mean(0), bounds.std(0) / math.sqrt(groups)


@measure("iwae", figures=("bounds",))
def _iwae(context: EvaluationContext) -> MeasureResult:
    """The bound for K = 1 to 5000, its predicted bias, effective draws and k̂."""
    from flowvae.evaluation.figures.bound_plots import plot_bounds

    x = context.batch(context.effort.rows)
    result = measure_iwae(context.model, context.guide, x, compile=context.compile, **context.options)
    protocol = {**context.facts(x), **context.efforts}
    return MeasureResult(result.metrics(context.split, protocol), {"bounds": lambda: plot_bounds(result)})
