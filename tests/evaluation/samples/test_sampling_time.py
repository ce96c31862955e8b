"""The time of draws: by a clock that the test sets, of the prior alone, in evaluation mode, without a trace."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal
from zuko.lazy import LazyDistribution

from flowvae import FlowvaeError
from flowvae.core.parts import Condition
from flowvae.evaluation import MEASURES, EvaluationContext, measure_sampling_time
from flowvae.evaluation.samples import sampling_time
from flowvae.models import VAE


class _Counting(LazyDistribution):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.shapes: list[tuple[bool, torch.Size]] = []

    def forward(self, c: Tensor | None = None) -> Distribution:
        owner = self

        class Noted(Normal):
            def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
                owner.shapes.append((owner.training, sample_shape))
                return super().sample(sample_shape)

            def expand(self, batch_shape: torch.Size, _instance: object = None) -> Noted:
                return self

        return Independent(Noted(torch.zeros(3), self.weight), 1)


def model(condition: Condition | None = None) -> VAE:
    return VAE(_Counting(), nn.Linear(3, 2), nn.Identity(), condition)  # type: ignore[arg-type]


def test_it_is_the_median_of_three_runs_of_the_prior(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.accumulate([0.0, 5.0, 10.0, 1.0, 10.0, 2.0])  # runs of 5, 1 and 2
    monkeypatch.setattr(sampling_time.time, "process_time", lambda: next(ticks))
    vae = model().train()
    before = torch.get_rng_state()
    assert measure_sampling_time(vae, draws=7) == 2.0
    assert vae.prior.shapes == [(False, torch.Size((7,)))] * 3
    assert vae.training
    assert torch.equal(torch.get_rng_state(), before)


def context(vae: VAE) -> EvaluationContext:
    return EvaluationContext(vae, nn.Identity(), None, "test", 1, 0, {"measure": "sampling-time"})  # type: ignore[arg-type]


def test_the_metric_says_what_was_timed() -> None:
    (metric,) = MEASURES["sampling-time"](context(model())).metrics
    assert metric.value > 0
    assert metric.se is None
    assert (metric.protocol["draws"], metric.protocol["device"]) == (10_000, "cpu")
    assert metric.protocol["threads"] == torch.get_num_threads()


def test_a_conditional_model_has_no_single_prior() -> None:
    with pytest.raises(FlowvaeError, match="conditional"):
        MEASURES["sampling-time"](context(model(Condition())))
