"""Prior overfitting: log-densities of training codes against those of held-out codes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flowvae.core.seeds import derive
from flowvae.evaluation.context import EvaluationContext, MeasureResult
from flowvae.evaluation.latent.aggregated_posterior import (
    CHUNK,
    PATIENCE,
    AggregatedPosterior,
    WithPosterior,
    WithPrior,
    code_densities,
    draw_codes,
    log_prior,
)
from flowvae.evaluation.likelihood.importance_weights import check_data
from flowvae.evaluation.metric import Metric, mean_se
from flowvae.evaluation.registry import measure

__all__ = ["PriorOverfitting", "measure_prior_overfitting"]


@dataclass(frozen=True)
class PriorOverfitting:
    """Log-densities in nats of S codes per data point, shapes (S, N) for training and (S, M) for held-out data.

    A prior that has overfitted gives training codes a higher density than held-out codes. But the encoder can overfit
    as well, and then the two kinds of codes differ under any prior. The density q̄_train, without the posterior that a
    training code was drawn from, shows how large this part is.

    Args:
        train_prior: log p(z) of training codes.
        train_others: log q̄_train(z) of training codes, without the posterior that each was drawn from.
        test_prior: log p(z) of held-out codes.
        test_aggregated: log q̄_train(z) of held-out codes.
    """

    train_prior: Tensor
    train_others: Tensor
    test_prior: Tensor
    test_aggregated: Tensor

    def metrics(self, split: str, protocol: dict[str, Any]) -> list[Metric]:
        """Mean log-densities (negative cross-entropies) in nats, and their differences.

        `prior_memorization` = E_train[log p] − E_test[log p]; 0 if neither prior nor encoder has overfitted.
        `encoder_memorization` = the same difference under q̄_train.
        `prior_above_aggregate` = E_test[log p − log q̄_train] = KL(q̄_test‖q̄_train) − KL(q̄_test‖p): positive if
        the prior describes new codes better than q̄_train does.
        """
        protocol = {**protocol, "draws": len(self.test_prior), "data_in_aggregate": self.train_prior.shape[1]}

        def metric(name: str, value: float, se: float | None) -> Metric:
            return Metric(name, value, se, "nats per datum", split, protocol)

        def difference(name: str, train: Tensor, test: Tensor) -> Metric:
            (a, a_se), (b, b_se) = mean_se(train.mean(0)), mean_se(test.mean(0))
            return metric(name, a - b, None if a_se is None or b_se is None else math.hypot(a_se, b_se))

        return [
            metric("train_codes_log_prior", *mean_se(self.train_prior.mean(0))),
            metric("held_out_codes_log_prior", *mean_se(self.test_prior.mean(0))),
            metric("train_codes_log_aggregate", *mean_se(self.train_others.mean(0))),
            metric("held_out_codes_log_aggregate", *mean_se(self.test_aggregated.mean(0))),
            difference("prior_memorization", self.train_prior, self.test_prior),
            difference("encoder_memorization", self.train_others, self.test_aggregated),
            metric("prior_above_aggregate", *mean_se((self.test_prior - self.test_aggregated).mean(0))),
        ]


@torch.no_grad()
def measure_prior_overfitting(
    model: WithPrior,
    guide: WithPosterior,
    x: Tensor,
    train: Tensor,
    draws: int = 1,
    seed: int = 0,
    progress: bool = False,
    chunk: int = CHUNK,
    patience: float = PATIENCE,
) -> PriorOverfitting:
    """Score codes of training and of held-out data under the prior and under q̄ of the training data.

    Args:
        model: model with a method `prior()`.
        guide: guide with a method `posterior(x)`.
        x: held-out data, shape (M, D).
        train: training data, shape (N, D).
        draws: S, codes per data point.
        seed: random seed of the codes.
        progress: whether to show a progress bar.
        chunk: densities in memory at a time; the result does not depend on it.
        patience: seconds of estimated work from which a warning states the cost.

    Raises:
        FlowvaeError: for fewer than two training points, no held-out data, no draw, or data of another shape or type.
    """
    check_data(guide, x)
    _, log_others, train_prior = code_densities(model, guide, train, draws, seed, progress, chunk, patience)
    codes, _ = draw_codes(guide, x, draws, derive(seed, "held out"))
    aggregated = AggregatedPosterior(guide, train, chunk, patience, progress)
    log_aggregated = aggregated.log_prob(codes.flatten(0, 1)).reshape(codes.shape[:2])
    return PriorOverfitting(train_prior, log_others, log_prior(model, codes), log_aggregated)


@measure("prior-overfitting", held_out=True)
def _prior_overfitting(context: EvaluationContext) -> MeasureResult:
    """Log-densities of held-out and of training codes under the prior and the training data's aggregated posterior."""
    x, train = context.rows(), context.rows("train")
    result = measure_prior_overfitting(context.model, context.guide, x, train, **context.options)
    return MeasureResult(result.metrics(context.split, {**context.facts(x), "train_rows": len(train)}))
