"""Training steps on the ELBO or another objective of a Pyro model and guide, with annealing."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from torch import nn

from flowvae.core.seeds import derive, seeded
from flowvae.data.batch import Batch
from flowvae.inference.annealing import Ramp, temper, weigh_latent
from flowvae.inference.compile.compiled import CompiledTrace_ELBO
from flowvae.inference.compile.step_programs import StepPrograms
from flowvae.inference.optim import JointAdam
from flowvae.inference.training import Training
from flowvae.networks import eval_mode

__all__ = ["AnnealedELBO"]

ROWS = 4096  # validation data points times draws in memory at a time
VALUES = 2**22  # values in memory at a time, which limits the number of images of more than 1024 values

ENOUGH = 1000  # steps from which a capture pays off
MANY = 20_000  # steps from which compilation in the background pays off
SHORT = 50  # with fewer steps in an epoch, its last, smaller batch is compiled too


class AnnealedELBO:
    """Steps of Pyro's `SVI` with the ELBO of `Training.objective`, on batches of a fixed size.

    The loss is a mean over the batch, so that clipping does not depend on the batch size.

    Args:
        model: Pyro model.
        guide: Pyro guide.
        optim: optimizer of their parameters.
        settings: settings of the training.
        rows: data points of a full batch.
        steps: steps per epoch.
    """

    def __init__(
        self, model: nn.Module, guide: nn.Module, optim: JointAdam, settings: Training, rows: int, steps: int
    ) -> None:
        self.pair = (model, guide)
        self.settings = settings
        self.steps = steps
        annealed_model: Callable[..., Any] = model
        annealed_guide: Callable[..., Any] = guide
        if settings.kl_warmup or settings.kl_weight != 1:
            ramp = Ramp(settings.kl_warmup * steps, start=0.0, end=settings.kl_weight)
            annealed_model, annealed_guide = weigh_latent(model, ramp), weigh_latent(guide, ramp)
        elif settings.tempering:
            ramp = Ramp(settings.tempering, start=0.01)
            annealed_model = temper(model, ramp)
        else:
            ramp = Ramp(0, start=1.0)
        self.ramp = ramp
        mean = poutine.scale(scale=1 / rows)
        mode = self._mode()
        loss = self._built(settings.particles, mode)
        self.svi = SVI(mean(annealed_model), mean(annealed_guide), optim, loss)
        self.programs: StepPrograms | None = None
        many = settings.epochs * steps >= MANY
        compiled = settings.compile == "inductor" or (settings.compile == "auto" and many)
        if isinstance(loss, CompiledTrace_ELBO) and mode != "none" and compiled:
            self.programs = StepPrograms(loss, self.svi.model, self.svi.guide, optim, most=1 + (steps < SHORT))
            self.compiled_since = 0 if settings.compile == "inductor" else None

    @property
    def compiled_since(self) -> int | None:
        return None if self.programs is None else self.programs.since

    @compiled_since.setter
    def compiled_since(self, epoch: int | None) -> None:
        if self.programs is not None:
            self.programs.since = epoch

    def _mode(self) -> str:
        mode = self.settings.compile
        if mode == "auto":
            # the smallest number of steps that will be taken
            surely = min(self.settings.epochs, self.settings.patience + 1) * self.steps
            return "capture" if surely >= ENOUGH else "none"
        return "none" if mode == "none" else "capture"  # the step, not only its gradient, is what inductor compiles

    def _built(self, draws: int, mode: str) -> Trace_ELBO:
        draws = self.settings.objective.draws or draws
        return self.settings.objective.build(
            num_particles=draws, max_plate_nesting=1, vectorize_particles=draws > 1, compile=mode
        )

    @property
    def weight(self) -> float:
        return self.ramp()

    @property
    def annealed(self) -> bool:
        return self.ramp() != self.ramp.end

    def start(self, epoch: int) -> None:
        """Begin an epoch."""
        self.ramp.step = epoch * self.steps
        if self.programs is not None:
            self.programs.begin(epoch)

    def step(self, batch: Batch) -> float:
        """Take one step; return the loss of the batch in nats."""
        compiled = self.programs.find(batch.args) if self.programs is not None else None
        loss = float(self.svi.step(*batch.args)) if compiled is None else compiled(batch.args)
        self.ramp.step += 1
        return loss

    @torch.no_grad()
    def validate(self, valid: Batch, seed: int) -> float:
        """Mean objective with the final weight of the KL term, and the same noise in every call.

        An objective of K draws is averaged over ⌈`validation_draws` / K⌉ evaluations.
        """
        weight = self.settings.kl_weight
        draws = self.settings.objective.draws or self.settings.validation_draws
        evaluations = math.ceil(self.settings.validation_draws / draws)
        pair: tuple[Callable[..., Any], ...] = self.pair
        if weight != 1:
            pair = tuple(weigh_latent(part, lambda: weight) for part in pair)
        total = 0.0
        with (
            eval_mode(*self.pair),
            seeded(derive(seed, "validation")),
            pyro.validation_enabled(False),
            warnings.catch_warnings(),
        ):
            warnings.filterwarnings("ignore", message="Encountered NaN")  # an epoch without a finite ELBO is not kept
            for batch in valid.split(max(1, min(ROWS, VALUES // valid.x.shape[1:].numel()) // draws)):
                for _ in range(evaluations):
                    total -= self._built(draws, "none").loss(*pair, *batch.args) / evaluations
        return total / len(valid)
