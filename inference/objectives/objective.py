"""The interface of training objectives."""

from __future__ import annotations

from typing import Protocol

from flowvae.data.batch import Batch

__all__ = ["Objective"]


class Objective(Protocol):
    """An objective with its optimizer."""

    @property
    def weight(self) -> float:
        """The current annealing weight."""
        ...

    @property
    def annealed(self) -> bool:
        """Whether annealing is in progress."""
        ...

    @property
    def compiled_since(self) -> int | None:
        """The epoch since which steps are compiled; None: they are not. Set when a training continues."""
        ...

    @compiled_since.setter
    def compiled_since(self, epoch: int | None) -> None: ...

    def start(self, epoch: int) -> None:
        """Set the annealing to the start of an epoch."""
        ...

    def step(self, batch: Batch) -> float:
        """Take one step.

        Returns:
            The loss in nats: the sum over the batch, divided by the size of a full batch.

        Raises:
            NonFiniteError: if the loss or its gradient is not finite; the step is not taken.
        """
        ...

    def validate(self, valid: Batch, seed: int) -> float:
        """Evaluate the objective on validation data, in nats per data point, with the noise of this seed."""
        ...
