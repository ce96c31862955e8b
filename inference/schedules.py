"""Learning-rate schedules: factors of the learning rate by epoch.

A schedule is a function of the epoch and of the validation ELBOs before it, so a training that is resumed from a
checkpoint takes the same steps as one that was not interrupted.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from flowvae.core.errors import FlowvaeError, check_int, check_number, shown
from flowvae.core.registry import Spec

__all__ = ["Constant", "Cosine", "Plateau", "ScheduleSpec", "Step", "WarmupCosine"]


class ScheduleSpec(Spec, ABC, kind="schedule"):
    """Settings of a learning-rate schedule.

        @dataclass(frozen=True)
        class Inverse(ScheduleSpec, name="inverse"):
            def multiplier(self, epoch, epochs, elbos):
                return 1 / (1 + epoch)

    Attributes:
        spans_training: whether the multiplier depends on `epochs`, in which case a training cannot be extended.
    """

    spans_training: ClassVar[bool] = False

    @abstractmethod
    def multiplier(self, epoch: int, epochs: int, elbos: Sequence[float]) -> float:
        """Return the factor of `Training.learning_rate` in an epoch, 0 or more.

        Args:
            epoch: number of the epoch, from 0.
            epochs: `Training.epochs`.
            elbos: validation ELBO of each earlier epoch, in nats per data point; may contain NaN.
        """

    def check(self, epochs: int) -> None:
        """Check the settings for a training of this many epochs.

        Raises:
            FlowvaeError: for settings that do not fit.
        """


@dataclass(frozen=True)
class Constant(ScheduleSpec, name="constant"):
    """The same learning rate in every epoch."""

    def multiplier(self, epoch: int, epochs: int, elbos: Sequence[float]) -> float:
        return 1.0


@dataclass(frozen=True)
class Cosine(ScheduleSpec, name="cosine"):
    """Half a period of a cosine over the whole training: final + (1 − final) (1 + cos(π epoch / epochs)) / 2.

    The same as `torch.optim.lr_scheduler.CosineAnnealingLR` with T_max = epochs.

    Args:
        final: the multiplier at the end.

    References:
        Loshchilov & Hutter (2017), "SGDR: Stochastic Gradient Descent with Warm Restarts".
    """

    final: float = 0.0

    spans_training = True

    def __post_init__(self) -> None:
        check_number(self, "final", least=0)

    def multiplier(self, epoch: int, epochs: int, elbos: Sequence[float]) -> float:
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * epoch / epochs))


@dataclass(frozen=True)
class WarmupCosine(ScheduleSpec, name="warmup-cosine"):
    """Linear growth over the first epochs, then `Cosine` over the others.

    The same as torch's `LinearLR` with start_factor = 1 / (warmup + 1), followed by `CosineAnnealingLR`.

    Args:
        warmup: epochs before the full learning rate; the first one has 1 / (warmup + 1) of it.
        final: the multiplier at the end.
    """

    warmup: int = 5
    final: float = 0.0

    spans_training = True

    def __post_init__(self) -> None:
        check_int(self, "warmup", least=0)
        check_number(self, "final", least=0)

    def check(self, epochs: int) -> None:
        if self.warmup >= epochs:
            raise FlowvaeError(
                f"schedule = {shown(self)} with epochs = {epochs}: the warm-up would never end; use fewer epochs for "
                "it or more for the training."
            )

    def multiplier(self, epoch: int, epochs: int, elbos: Sequence[float]) -> float:
        if epoch < self.warmup:
            return (epoch + 1) / (self.warmup + 1)
        return Cosine(self.final).multiplier(epoch - self.warmup, epochs - self.warmup, elbos)


@dataclass(frozen=True)
class Step(ScheduleSpec, name="step"):
    """Decay by a factor every `step_size` epochs: gamma^⌊epoch / step_size⌋, as `torch.optim.lr_scheduler.StepLR`.

    Args:
        step_size: epochs with the same learning rate.
        gamma: the factor.
    """

    step_size: int = 100
    gamma: float = 0.1

    def __post_init__(self) -> None:
        check_int(self, "step_size")
        check_number(self, "gamma")

    def multiplier(self, epoch: int, epochs: int, elbos: Sequence[float]) -> float:
        return float(self.gamma ** (epoch // self.step_size))


@dataclass(frozen=True)
class Plateau(ScheduleSpec, name="plateau"):
    """Decay by a factor whenever the validation ELBO has stopped improving.

    The same as `torch.optim.lr_scheduler.ReduceLROnPlateau` with mode="max" and threshold_mode="abs".

    Args:
        factor: factor of a decay, below 1.
        patience: tolerated epochs without a better validation ELBO; one more lowers the learning rate.
        threshold: smallest improvement of the ELBO, in nats per data point.
        final: smallest multiplier.
    """

    factor: float = 0.5
    patience: int = 10
    threshold: float = 0.0
    final: float = 0.0

    def __post_init__(self) -> None:
        check_number(self, "factor")
        if self.factor >= 1:
            raise FlowvaeError(f"Plateau.factor = {self.factor:g}: must be below 1, so that it lowers.")
        check_int(self, "patience", least=0)
        for name in ("threshold", "final"):
            check_number(self, name, least=0)

    def multiplier(self, epoch: int, epochs: int, elbos: Sequence[float]) -> float:
        value, best, bad = 1.0, -math.inf, 0
        for elbo in elbos:
            if elbo > best + self.threshold:
                best, bad = elbo, 0
            else:
                bad += 1
            if bad > self.patience:
                value, bad = max(value * self.factor, self.final), 0
        return value
