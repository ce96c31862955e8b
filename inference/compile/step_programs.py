"""Training steps that are captured first, while they are compiled in the background."""

from __future__ import annotations

import warnings
from typing import Any

from torch import Tensor

from flowvae.inference.compile.compiled import CompiledTrace_ELBO
from flowvae.inference.compile.native import CompileError
from flowvae.inference.compile.training_step import TrainingStep
from flowvae.inference.optim import JointAdam

__all__ = ["StepPrograms"]


class StepPrograms:
    """Compiled training steps of a pair, one for each shape of a batch.

    Compiled and captured steps agree up to rounding, so the switch changes the last bits of the results. It takes place
    at the start of an epoch, `since`, which is stored in the checkpoint: a training that continues from there uses
    compiled steps at once.

    Args:
        elbo: the loss, which captures the programs.
        model: Pyro model.
        guide: Pyro guide.
        optim: the optimizer.
        most: largest number of shapes to compile; batches of other shapes take captured steps.

    Attributes:
        since: epoch from which compiled steps are taken; None: not yet.
    """

    def __init__(self, elbo: CompiledTrace_ELBO, model: Any, guide: Any, optim: JointAdam, most: int) -> None:
        self.elbo = elbo
        self.pair = (model, guide)
        self.optim = optim
        self.most = most
        self.since: int | None = None
        self._steps: dict[Any, TrainingStep | None] = {}

    def begin(self, epoch: int) -> None:
        """Switch to compiled steps if all of them are ready; otherwise compile the next one."""
        steps = [step for step in self._steps.values() if step is not None]
        if self.since is not None:
            if not all(step.fits() for step in steps):
                self._steps.clear()
            return
        try:
            for step in steps:
                if not step.native.ready:
                    step.native.compile()
                    return
            for step in steps:
                step.check()
        except CompileError:
            self._steps = dict.fromkeys(self._steps)
            return
        if steps and all(step.fits() for step in steps):
            self.since = epoch

    def find(self, arguments: tuple[Tensor, ...]) -> TrainingStep | None:
        """The compiled step of these arguments; None if a captured step has to be taken."""
        kind = tuple((value.shape, value.dtype, value.device) for value in arguments)
        if kind not in self._steps:
            self._steps[kind] = self._new(arguments) if len(self._steps) < self.most else None
        return None if self.since is None else self._steps[kind]

    def _new(self, arguments: tuple[Tensor, ...]) -> TrainingStep | None:
        found = self.elbo.program(*self.pair, *arguments)
        if found is None:
            return None
        others = next((step for step in self._steps.values() if step is not None), None)
        if others is not None and not others.learns_as(found[0]):
            return None  # other parameters have gradients, so they would need other packing
        try:
            step = TrainingStep(found[0], self.optim, found[1])
            if self.since is None:
                step.native.compile()
            else:
                step.native.wait()
                step.check()
        except CompileError as error:
            if self.since is not None:
                warnings.warn(
                    "steps are captured and not compiled, so results equal those of compiled steps up to rounding: "
                    f"{error}.",
                    UserWarning,
                    stacklevel=4,
                )
            return None
        return step
