"""ELBO and importance-weighted log-likelihood, with diagnostics of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flowvae.core.errors import check_int_value
from flowvae.core.progress import bar
from flowvae.data.batch import Batch
from flowvae.evaluation.context import EvaluationContext, MeasureResult
from flowvae.evaluation.likelihood.importance_weights import check_data, importance_draws, log_mean, parts_of
from flowvae.evaluation.likelihood.pareto_tail import pareto_k
from flowvae.evaluation.metric import Metric, mean_metric
from flowvae.evaluation.registry import measure

__all__ = ["Likelihoods", "bad_k", "distrust", "khat_metrics", "likelihood_metrics", "measure_likelihoods"]

BAD_K = 0.7  # Vehtari et al. (2024): above it, importance sampling is unreliable
FEW = 10  # effective draws below which it is unreliable, if there are too few draws to fit k̂
TOLERATED = 0.1  # share of the data; k̂ is noisy, and few values above the limit hardly change a mean


@dataclass(frozen=True)
class Likelihoods:
    """Estimates for each data point, shape (N,), in nats unless stated otherwise.

    Args:
        reconstruction: E_q[log p(x | z)].
        kl: E_q[log q(z | x) − log p(z)].
        log_evidence: log (1/K) Σ_k w_k, a lower bound of log p(x) in expectation (Burda et al. 2016).
        effective_draws: (Σ w)² / Σ w², at most K.
        pareto_k: shape k̂ of the weights' tail; above 0.7 the estimate is unreliable.
    """

    reconstruction: Tensor
    kl: Tensor
    log_evidence: Tensor
    effective_draws: Tensor
    pareto_k: Tensor

    @property
    def elbo(self) -> Tensor:
        """Reconstruction − kl."""
        return self.reconstruction - self.kl


def measure_likelihoods(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    x: Tensor | Batch,
    draws: int = 1000,
    seed: int = 0,
    compile: str = "capture",  # noqa: A002
    progress: bool = False,
) -> Likelihoods:
    """Estimate ELBO and evidence of each data point from K draws of the guide.

    Args:
        model: Pyro model with any latent sites, in one plate of the data.
        guide: Pyro guide with the same sites.
        x: data, shape (N, *event shape), or a batch with a condition.
        draws: K.
        seed: random seed of the draws; the result does not depend on the available memory.
        compile: "capture", "inductor" or "none"; see `Sampler`.
        progress: whether to show a progress bar, and a warning before long work.

    Raises:
        FlowvaeError: as `importance_draws`.
    """
    batch = check_data(guide, x)
    check_int_value("draws", draws)
    parts: list[tuple[Tensor, ...]] = []
    with bar(
        f"{draws} draws per data point", "part", parts_of(len(batch), draws), progress=progress, announce=True
    ) as work:
        for block in importance_draws(model, guide, batch, draws, seed, compile, work.update):
            log_evidence, variance = log_mean(block.log_weight)
            parts.append(
                (
                    block.log_likelihood.mean(0),
                    (block.log_guide - block.log_prior).mean(0),
                    log_evidence,
                    draws / (1 + variance),
                    pareto_k(block.log_weight),
                )
            )
    return Likelihoods(*(torch.cat(column).cpu() for column in zip(*parts, strict=True)))


def likelihood_metrics(
    result: Likelihoods,
    features: int,
    counts: bool,
    split: str,
    protocol: dict[str, Any],
    exact: Tensor | None = None,
) -> list[Metric]:
    """Means over the split with standard errors over its data, as metrics.

    For counts there is also "bits_per_dim", nll / (D log 2), in expectation an upper bound of the code length. It falls
    as K grows, so always report it with K. For counts plus uniform noise on [0, 1) the density of the noisy data bounds
    the code length as well (Theis et al. 2016). For other real numbers −log p(x) depends on their units and is not a
    code length.

    Args:
        result: result of `measure_likelihoods`.
        features: D, the number of values of a data point.
        counts: whether the data are counts, or counts plus uniform noise on [0, 1).
        split: name of the split.
        protocol: identity of the data, draws, seed.
        exact: log p(x) of the true model for each data point, shape (N,), if known.
    """
    nll = -result.log_evidence
    values = {"elbo": result.elbo, "reconstruction": result.reconstruction, "kl": result.kl, "nll": nll}
    if exact is not None:
        values["nll_above_exact"] = exact.cpu() - result.log_evidence
    caution = distrust(result.effective_draws, result.pareto_k)
    metrics = [
        mean_metric(name, value, "nats per datum", split, protocol, caution if name.startswith("nll") else None)
        for name, value in values.items()
    ]
    if counts:
        bits = nll.double() / (features * math.log(2))
        metrics.append(mean_metric("bits_per_dim", bits, "bits/dim", split, protocol, caution))
    metrics.append(mean_metric("effective_draws", result.effective_draws, "draws", split, protocol))
    return [*metrics, *khat_metrics("", result.pareto_k, split, protocol)]


def khat_metrics(prefix: str, pareto_k: Tensor, split: str, protocol: dict[str, Any]) -> list[Metric]:
    """Share of the data with k̂ (N,) above 0.7; no metric if there were too few draws to fit k̂.

    The standard error is the standard deviation of the share's beta posterior under a uniform prior. It is about 1/N
    for a share of 0 or 1, where the binomial formula gives 0.
    """
    bad = bad_k(pareto_k)
    if bad is None:
        return []
    above, data = bad.sum().item(), len(bad)
    se = math.sqrt((above + 1) * (data - above + 1) / (data + 3)) / (data + 2)
    return [Metric(f"{prefix}pareto_k_above_{BAD_K}", above / data, se, "share of data", split, protocol)]


def distrust(effective_draws: Tensor, pareto_k: Tensor) -> str | None:
    """Explain why a mean of importance-weighted estimates is unreliable; None if it is reliable.

    It is unreliable if k̂ is above 0.7 for more than a tenth of the data. For data with too few draws to fit k̂, fewer
    than 10 effective draws count instead.

    Args:
        effective_draws: effective draws of each data point, shape (N,).
        pareto_k: k̂ of each data point, shape (N,); NaN if it could not be fitted.
    """
    unfitted = pareto_k.isnan()
    few = unfitted & (effective_draws.to(pareto_k.device) < FEW)
    share = ((pareto_k > BAD_K) | few).double().mean().item()
    if share <= TOLERATED:
        return None
    rule = f"fewer than {FEW} effective draws" if unfitted.all() else f"k̂ above {BAD_K}"
    effective = effective_draws.mean().item()
    return f"not to be trusted: {rule} for {share:.0%} of the data, {effective:.3g} effective draws on average"


def bad_k(pareto_k: Tensor) -> Tensor | None:
    """Indicator of k̂ above 0.7, 1 or 0, shape (N,); None if there were too few draws to fit k̂."""
    return None if pareto_k.isnan().any() else (pareto_k > BAD_K).double()


@measure("likelihood", figures=("khat",))
def _elbo_and_nll(context: EvaluationContext) -> MeasureResult:
    """ELBO, its two terms and the NLL from K draws of the guide, with effective draws and k̂."""
    from flowvae.evaluation.figures.diagnostic_plots import plot_khat

    x, data = context.batch(), context.data
    options = {"compile": context.compile, **context.options}
    result = measure_likelihoods(context.model, context.guide, x, context.draws, **options)
    exact = data.log_evidence(x.args[0].cpu()) if data.log_evidence else None
    protocol = {**context.facts(x), "draws": context.draws}
    counts = data.likelihood.discrete or data.dequantized
    metrics = likelihood_metrics(result, data.features, counts, context.split, protocol, exact)
    fitted = result.pareto_k.isfinite().any()  # few draws or equal weights have no finite k̂
    return MeasureResult(metrics, {"khat": lambda: plot_khat(result.pareto_k)} if fitted else {})
