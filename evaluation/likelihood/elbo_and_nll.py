"""ELBO and test likelihood, with what says how far to trust them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flowvae.core.errors import check_int_value
from flowvae.evaluation.arviz.versions import pareto_k
from flowvae.evaluation.likelihood.importance_weights import check_data, importance_draws, log_mean, parts_of
from flowvae.evaluation.metric import Metric, mean_metric
from flowvae.evaluation.progress import Bar

__all__ = ["Likelihoods", "bad_k", "distrust", "khat_metrics", "likelihood_metrics", "measure_likelihoods"]

BAD_K = 0.7  # Vehtari et al. (2024): above it, importance sampling is not to be trusted
FEW = 10  # effective draws below which it is not, where there are too few to fit k̂
TOLERATED = 0.1  # share of the data; k̂ is noisy, and a few above the limit hardly move a mean


@dataclass(frozen=True)
class Likelihoods:
    """Estimates for each datum, shape (N,), in nats unless said otherwise.

    Args:
        reconstruction: E_q[log p(x | z)].
        kl: E_q[log q(z | x) − log p(z)].
        log_evidence: log (1/K) Σ_k w_k, a lower bound of log p(x) in expectation (Burda et al. 2016).
        effective_draws: (Σ w)² / Σ w², of K.
        pareto_k: shape of the weights' tail; above 0.7 the estimate is not to be trusted.
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
    x: Tensor,
    draws: int = 1000,
    seed: int = 0,
    compile: str = "none",  # noqa: A002
    progress: bool = False,
) -> Likelihoods:
    """Estimate ELBO and evidence of each datum from K draws of the guide.

    Args:
        model: Pyro model with sites "z" and "x".
        guide: Pyro guide with site "z".
        x: data, shape (N, D).
        draws: K.
        seed: decides the draws; the result does not depend on how they are spread over memory.
        compile: "none", "capture" or "inductor"; see `importance_draws`.
        progress: whether to show a progress bar, and how long it takes where that is long.

    Raises:
        FlowvaeError: for what `importance_draws` refuses.
    """
    check_data(guide, x)
    check_int_value("draws", draws)
    parts: list[tuple[Tensor, ...]] = []
    with Bar(parts_of(len(x), draws), f"{draws} draws a datum", "part", progress) as bar:
        for block in importance_draws(model, guide, x, draws, seed, compile, bar.update):
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
    discrete: bool,
    split: str,
    protocol: dict[str, Any],
    exact: Tensor | None = None,
) -> list[Metric]:
    """The split's means with standard errors over its data, as metrics.

    Args:
        result: what `measure_likelihoods` gave.
        features: D, the dimension of a datum, for bits/dim.
        discrete: whether the data are counts, so that bits/dim are a code length.
        split: name of the split.
        protocol: identity of the data, draws, seed.
        exact: log p(x) of the true model for each datum, shape (N,), where it is known.
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
    if discrete:
        bits = nll.double() / (features * math.log(2))
        metrics.append(mean_metric("nll_bits_per_dim", bits, "bits/dim", split, protocol, caution))
    metrics.append(mean_metric("effective_draws", result.effective_draws, "draws", split, protocol))
    return [*metrics, *khat_metrics("", result.pareto_k, split, protocol)]


def khat_metrics(prefix: str, pareto_k: Tensor, split: str, protocol: dict[str, Any]) -> list[Metric]:
    """For which share of the data k̂ (N,) is bad; nothing where there were too few draws to fit it.

    The standard error is that of the share under a uniform prior, of a beta distribution: with all or none of the
    data on one side it is about 1/N, where the binomial formula would claim to know the share exactly.
    """
    bad = bad_k(pareto_k)
    if bad is None:
        return []
    above, data = bad.sum().item(), len(bad)
    se = math.sqrt((above + 1) * (data - above + 1) / (data + 3)) / (data + 2)
    return [Metric(f"{prefix}pareto_k_above_{BAD_K}", above / data, se, "share of data", split, protocol)]


def distrust(effective_draws: Tensor, pareto_k: Tensor) -> str | None:
    """Why a mean of importance-weighted estimates is not to be trusted; None where it is.

    It is not where k̂ is above 0.7 for more than a tenth of the data or, from too few draws for k̂, where a tenth of
    them have fewer than 10 effective draws.

    Args:
        effective_draws: of each datum, shape (N,).
        pareto_k: k̂ of each datum, shape (N,); NaN where it could not be fitted.
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
    """1 where k̂ is above 0.7 and 0 elsewhere, shape (N,); None where there were too few draws to fit it."""
    return None if pareto_k.isnan().any() else (pareto_k > BAD_K).double()
