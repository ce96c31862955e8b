"""Errors of a training that cannot continue, with the reason in one line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowvae.core.errors import FlowvaeError
from flowvae.data.batch import Batch
from flowvae.inference.not_finite import cause_at_start, extreme_value, outlier
from flowvae.inference.optim import NonFiniteError

__all__ = ["Diagnosis", "TrainingStopped"]

ADVICE = "try a lower inference.learning_rate or inference.clip, or a warm-up (inference.kl_warmup)"


class TrainingStopped(FlowvaeError):  # noqa: N818  (an event, not a class of errors)
    """A loss or gradient was not finite; the last good checkpoint is kept."""


@dataclass(frozen=True)
class Diagnosis:
    """Error messages for a training that stops.

    Args:
        model: Pyro model.
        guide: Pyro guide.
        train: training data.
        valid: validation data.
        kl_weight: β of the ELBO; None for another objective.
        checkpoint: file of the training, if any.
    """

    model: nn.Module
    guide: nn.Module
    train: Batch
    valid: Batch
    kl_weight: float | None
    checkpoint: Path | None

    def of_step(
        self, error: ArithmeticError | ValueError, epoch: int, index: int, numbers: Tensor, batch: Batch
    ) -> FlowvaeError | None:
        """Return the error to raise for an error in a step; None for an error of the model, which is raised itself.

        Args:
            error: `NonFiniteError`, or a `ValueError` from a distribution's validation.
            epoch: number of the epoch, from 0.
            index: number of the batch in the epoch, from 0.
            numbers: row numbers of the batch, shape (B,).
            batch: the B data points.
        """
        where = f"epoch {epoch}, batch {index}"
        if "more than 1 value per channel" in str(error):
            return FlowvaeError(
                f"{where}: {len(batch)} row{'s' * (len(batch) > 1)}, too few for the variance of batch normalization; "
                f"use a batch_size that does not leave such a last batch of the {len(self.train)} rows of train."
            )
        whole = isinstance(self.train.x, Tensor)
        x: Any = self.train.x if whole else batch.x  # a source may not fit into memory
        names = None if whole else numbers
        # before the first step the learning rate is not the cause
        if epoch == index == 0 and self.kl_weight is not None:
            largest = extreme_value("train" if whole else "the batch", x, numbers=names)
            cause = cause_at_start(self.model, self.guide, batch, numbers, self.kl_weight, largest)
            advice = f"this is before any step, so data or settings cause it: {largest}; change them and train again"
        else:
            rows = numbers if whole else torch.arange(len(batch), device=numbers.device)
            cause, advice = outlier("train", x, rows, names), ADVICE
        if not isinstance(error, NonFiniteError) and cause is None:
            return None
        what = error if isinstance(error, NonFiniteError) else "the parameters of a density are not finite"
        cause = cause or advice
        return TrainingStopped(
            f"{where}: {what}; the step was not taken, and {self._kept()}. {cause[0].upper()}{cause[1:]}"
            f"{self._elsewhere()}."
        )

    def of_validation(self) -> TrainingStopped:
        """Return the error for a training without a finite validation ELBO."""
        x = self.valid.x
        largest = f": {extreme_value('valid', x)}" if isinstance(x, Tensor) else ""
        return TrainingStopped(
            f"the validation ELBO was never finite, so there are no best weights to keep{largest}. Leave out rows that "
            f"are far from the others, or try a lower inference.learning_rate{self._elsewhere()}."
        )

    def of_callback(self, epoch: int) -> TrainingStopped:
        """Return the error for a training that a callback stopped before any weights were eligible."""
        return TrainingStopped(
            f"a callback stopped the training after epoch {epoch}, before its annealing had ended or a validation ELBO "
            "was finite, so there are no best weights to keep. Let it train longer."
        )

    def _kept(self) -> str:
        if self.checkpoint is None:
            return "no checkpoint was asked for"
        exists = self.checkpoint.exists()
        return f"the last checkpoint is {self.checkpoint}" if exists else "there is no checkpoint yet"

    def _elsewhere(self) -> str:
        """Advice on the directory for other settings, since a checkpoint only continues with its own."""
        return "" if self.checkpoint is None else ", into another directory or with --overwrite"
