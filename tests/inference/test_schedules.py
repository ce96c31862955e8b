"""Learning-rate schedules against torch's own, and in a training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, ReduceLROnPlateau, SequentialLR, StepLR
from training_cases import FAST, equal, pair, values, weights

from flowvae import FlowvaeError
from flowvae.core.registry import families, find
from flowvae.inference import Constant, Cosine, Plateau, ScheduleSpec, Step, WarmupCosine, fit

EPOCHS = 30
X = values(48, 3)


def sgd() -> SGD:
    return SGD([torch.zeros(1)], lr=1.0)


def rates_of(scheduler: LRScheduler, optimizer: SGD) -> list[float]:
    found = []
    for _ in range(EPOCHS):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def rates(schedule: ScheduleSpec) -> list[float]:
    return [schedule.multiplier(epoch, EPOCHS, []) for epoch in range(EPOCHS)]


def test_cosine() -> None:
    assert rates(Cosine(0.1)) == pytest.approx(rates_of(CosineAnnealingLR(o := sgd(), EPOCHS, eta_min=0.1), o))
    assert rates(Cosine())[0] == 1.0


def test_step() -> None:
    assert rates(Step(7, 0.3)) == pytest.approx(rates_of(StepLR(o := sgd(), 7, 0.3), o))


def test_warmup_cosine() -> None:
    optimizer = sgd()
    parts = [LinearLR(optimizer, 1 / 6, total_iters=5), CosineAnnealingLR(optimizer, EPOCHS - 5, eta_min=0.2)]
    assert rates(WarmupCosine(5, 0.2)) == pytest.approx(rates_of(SequentialLR(optimizer, parts, [5]), optimizer))
    assert rates(WarmupCosine(0, 0.2)) == rates(Cosine(0.2))


@pytest.mark.parametrize("schedule", [Plateau(0.3, 2, 0.05, 0.01), Plateau(0.5, 0), Plateau()])
def test_plateau(schedule: Plateau) -> None:
    generator = torch.Generator().manual_seed(3)
    elbos = (torch.randn(200, generator=generator).cumsum(0) / 5 - 100).tolist()
    elbos[40] = math.nan
    optimizer = sgd()
    theirs = ReduceLROnPlateau(
        optimizer, "max", schedule.factor, schedule.patience, schedule.threshold, "abs", min_lr=schedule.final, eps=0.0
    )
    expected = []
    for elbo in elbos:
        expected.append(optimizer.param_groups[0]["lr"])
        theirs.step(elbo)
    found = [schedule.multiplier(epoch, 200, elbos[:epoch]) for epoch in range(200)]
    assert found == pytest.approx(expected)
    assert min(found) < 1


def test_constant_is_the_default_and_all_are_found_by_name() -> None:
    assert FAST.schedule == Constant()
    assert rates(Constant()) == [1.0] * EPOCHS
    assert {"constant", "cosine", "step", "warmup-cosine", "plateau"} <= families("schedule").keys()
    assert find("schedule", "warmup-cosine").default == WarmupCosine()


@dataclass(frozen=True)
class Inverse(ScheduleSpec, name="one-over-epoch"):
    """1 / (1 + rate · epoch)."""

    rate: float = 1.0

    def multiplier(self, epoch: int, epochs: int, elbos: Sequence[float]) -> float:
        return 1 / (1 + self.rate * epoch)


def test_one_of_ones_own_is_what_adam_steps_with() -> None:
    """Each of two trainings of one epoch from the weights of the other's, with a learning rate by hand."""
    parts = pair(3)
    settings = replace(FAST, epochs=4, learning_rate=0.01, schedule=Inverse(3.0), patience=10)
    fitted = fit(parts["model"], parts["guide"], X, X, settings, progress=False)
    assert list(fitted.history["learning_rate"]) == [0.01 / (1 + 3 * epoch) for epoch in range(4)]
    assert fitted.best_epoch == 3
    frozen = pair(3)
    still = replace(settings, schedule=_From(1))
    fit(frozen["model"], frozen["guide"], X, X, still, progress=False)
    once = pair(3)
    fit(once["model"], once["guide"], X, X, replace(settings, epochs=1, schedule=Constant()), progress=False)
    assert equal(weights(frozen), weights(once))
    assert not equal(weights(frozen), weights(parts))


@dataclass(frozen=True)
class _From(ScheduleSpec):
    """Nothing is learned from that epoch on."""

    epoch: int

    def multiplier(self, epoch: int, epochs: int, elbos: Sequence[float]) -> float:
        return 1.0 if epoch < self.epoch else 0.0


@dataclass(frozen=True)
class _Gives(ScheduleSpec):
    value: object

    def multiplier(self, epoch: int, epochs: int, elbos: Sequence[float]) -> float:
        return self.value  # type: ignore[return-value]


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, None, "0.1"])
def test_a_multiplier_that_is_none_is_refused(value: object) -> None:
    parts = pair(3)
    before = weights(parts)
    with pytest.raises(FlowvaeError, match=rf"{value!r}"):
        fit(parts["model"], parts["guide"], X, X, replace(FAST, schedule=_Gives(value)), progress=False)
    assert equal(weights(parts), before)


@pytest.mark.parametrize(
    ("make", "held"),
    [
        (lambda: Cosine(-0.1), "-0.1"),
        (lambda: Step(0), "0"),
        (lambda: Step(gamma=math.nan), "nan"),
        (lambda: Plateau(factor=1.0), "1"),
        (lambda: WarmupCosine(-1), "-1"),
        (lambda: replace(FAST, schedule=WarmupCosine(3)), "3"),
        (lambda: replace(FAST, schedule="cosine"), "cosine"),
    ],
)
def test_wrong_settings_are_refused(make: object, held: str) -> None:
    with pytest.raises(FlowvaeError) as refused:
        make()  # type: ignore[operator]
    assert held in str(refused.value)
