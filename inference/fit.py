"""Fitting a model/guide pair by stochastic variational inference."""

from __future__ import annotations

import operator
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyro
import torch
from torch import Tensor, nn

from flowvae.core.errors import FlowvaeError, plain_number
from flowvae.core.progress import bar
from flowvae.core.seeds import derive, seeded
from flowvae.data.batch import Batch
from flowvae.inference.checkpoint import history_table
from flowvae.inference.compile.capture import EagerWarning
from flowvae.inference.objectives.annealed_elbo import AnnealedELBO
from flowvae.inference.objectives.objective import Objective
from flowvae.inference.objectives.own_loss import OwnLoss
from flowvae.inference.optim import JointAdam, NonFiniteError
from flowvae.inference.precision import autocast, networks_in
from flowvae.inference.stopping import Diagnosis
from flowvae.inference.trackers import Tracker, tracked
from flowvae.inference.training import Training, choose_device
from flowvae.inference.training_data import TrainingData, check_same_kind, on_device, training_data
from flowvae.inference.training_state import TrainingState

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Callback", "Fitted", "fit"]

Callback = Callable[[dict[str, float]], object]
Follow = Callable[[Tensor | None], None]  # the method of a prior that is told which data points are in a batch


@dataclass
class Fitted:
    """The result of a fit besides the pair, which has the best weights.

    Args:
        history: one row per epoch: train and validation ELBO in nats per data point (the value of `Training.objective`
            with its KL weight, or the negative of a custom loss), annealing weight, learning rate, seconds, and
            whether its weights were kept.
        best_epoch: the epoch whose weights were kept.
    """

    history: pd.DataFrame
    best_epoch: int


def fit(
    model: nn.Module,
    guide: nn.Module,
    train: TrainingData,
    valid: TrainingData,
    settings: Training,
    seed: int = 0,
    checkpoint: Path | None = None,
    facts: dict[str, Any] | None = None,
    progress: bool = True,
    *,
    objective: Callable[[Batch], Tensor] | None = None,
    validation: Callable[[Batch], Tensor] | None = None,
    callbacks: Sequence[Callback] = (),
    trackers: Sequence[Tracker] = (),
    same: Callable[[Any, Any], bool] = operator.eq,
) -> Fitted:
    """Train a Pyro model/guide pair by SVI with the ELBO of `Training.objective`; afterwards it has the best weights.

    All randomness of an epoch depends only on the seed and the number of the epoch, so a killed training that is
    resumed from its checkpoint gives the same result bit for bit. A checkpoint, even of a finished training, can be
    continued with more `epochs` or a larger `patience`; see `Training.extendable`. The best weights are those with the
    highest validation ELBO after any annealing, with the KL weight of the training objective.

    The loss of a step is the sum over the batch, divided by the batch size, or by N if that is smaller. So the last,
    smaller batch of an epoch has a smaller weight, and all data points have equal weights.

    Modules are trained in their current mode (call `train()` first if they may be in evaluation mode, and `eval()` on
    parts whose statistics are fixed), validated in evaluation mode, and returned in their original mode.

    Args:
        model: Pyro model, called with data (B, *event), and with conditions (B, C) if there are any.
        guide: Pyro guide, called with the same arguments.
        train: training data (N, *event): an array or tensor, kept on the device as a whole; a `Source`, read batch by
            batch; or a `Batch` of one of them and a condition (N, C).
        valid: validation data (M, *event), in the same forms.
        settings: how to train.
        seed: random seed of the order of the batches and the noise.
        checkpoint: file to write, and to continue from if it exists.
        facts: settings of the pair, stored in the checkpoint and compared when continuing from it.
        progress: whether to show a progress bar.
        objective: a loss to minimize instead of −ELBO: a function of a `Batch` that returns the mean over its data
            points in nats, a scalar with gradients. The negative mean over the validation data, in evaluation mode,
            then replaces the validation ELBO.
        validation: for an objective that does not measure quality, such as an alternating loss: a function of the
            whole validation data that returns a scalar, whose negative value replaces the validation ELBO.
        callbacks: functions of the epoch's row, called after each epoch. If one returns True, the training
            ends; it can be continued with more `epochs`.
        trackers: receive the settings and each epoch's row; see `Tracker`.
        same: whether two `facts`, the stored and the given ones, describe the same pair.

    Raises:
        TrainingStopped: if a loss or gradient is not finite, before the step is taken.
        FlowvaeError: if the checkpoint is damaged or belongs to other settings, the data do not fit, or the settings
            need more memory than is available.
    """
    data = training_data("train", train, guide)
    held_out = training_data("valid", valid, guide)
    check_same_kind(data, held_out)
    settings.check_steps(len(data))
    settings.check_memory(data, held_out)
    rounded = networks_in(settings.precision, model, guide)
    device = choose_device(settings.device)
    data, held_out = on_device(data, device), on_device(held_out, device)
    pair = nn.ModuleDict({"model": model.to(device), "guide": guide.to(device)})
    pair.zero_grad()  # gradients from earlier work must not enter the first step
    optim = _optimizer(pair, settings)
    rows = min(settings.batch_size, len(data))
    maximized: Objective
    if objective is None:
        maximized = AnnealedELBO(model, guide, optim, settings, rows, settings.steps_per_epoch(len(data)))
    else:
        maximized = OwnLoss(objective, pair, optim, settings, rows, validation)

    identity = {
        "settings": facts,
        "training": settings.as_dict(),
        "seed": seed,
        "train": list(data.x.shape),
        "valid": list(held_out.x.shape),
        "objective": "ELBO" if objective is None else "own",
    }
    state = TrainingState(pair, optim)
    if checkpoint is not None and checkpoint.exists() and state.restore(checkpoint, identity, settings, same):
        state.save(checkpoint, identity)  # it may already have ended by these settings
    if state.compiled_since is not None:
        maximized.compiled_since = state.compiled_since
    kl_weight = settings.kl_weight if objective is None else None
    diagnosis = Diagnosis(model, guide, data, held_out, kl_weight, checkpoint)
    follow: Follow = getattr(getattr(model, "prior", None), "follow", _ignore)
    follow(None)
    saved_at = time.monotonic()

    name = "ELBO" if objective is None and settings.objective.family == "elbo" else "objective"
    work = bar("training", "epoch", settings.epochs, progress=progress, initial=state.epoch, leave=True)
    with tracked(trackers, identity), work, _unpacked(optim):
        while not state.has_ended(settings):
            started = time.perf_counter()
            optim.learning_rate = settings.learning_rate_at(state.epoch, state.elbos)
            maximized.start(state.epoch)
            if maximized.compiled_since != state.compiled_since:
                # recorded before the first compiled step, so that a training killed after it continues with them
                state.compiled_since = maximized.compiled_since
                if checkpoint is not None and state.epoch:
                    state.save(checkpoint, identity)
            weight = maximized.weight
            with autocast(rounded, device):
                train_elbo = _train_epoch(maximized, data, rows, settings, seed, state.epoch, diagnosis, follow)
            valid_elbo = maximized.validate(held_out, seed)
            row = {
                "epoch": state.epoch,
                "train_elbo": train_elbo,
                "valid_elbo": valid_elbo,
                "weight": weight,
                "learning_rate": optim.learning_rate,
                "seconds": time.perf_counter() - started,
            }
            state.add(row, eligible=not maximized.annealed)
            work.set_postfix_str(f"{name} train {train_elbo:.2f}, valid {valid_elbo:.2f} nats", refresh=False)
            work.update()
            for tracker in trackers:
                tracker.log(dict(row))
            answers = [plain_number(callback(dict(row))) for callback in callbacks]
            if any(answer is True for answer in answers):
                state.stopped = settings.epochs
            due = state.epoch == 1 or time.monotonic() - saved_at >= settings.checkpoint_seconds
            if checkpoint is not None and (due or state.has_ended(settings)):
                state.save(checkpoint, identity)
                saved_at = time.monotonic()
        work.finish()
    if state.best_epoch < 0:
        raise diagnosis.of_callback(state.epoch - 1) if state.stopped else diagnosis.of_validation()
    pair.load_state_dict(state.best)
    return Fitted(history_table(state.rows, state.best_epoch), state.best_epoch)


@contextmanager
def _unpacked(optim: JointAdam) -> Iterator[None]:
    """Move packed parameters back to separate memory after the block."""
    try:
        yield
    finally:
        optim.unpack()


def _optimizer(pair: nn.ModuleDict, settings: Training) -> JointAdam:
    """Adam over all parameters, with a separate weight decay for the prior of a model that has one."""
    prior = getattr(pair["model"], "prior", None)
    of_prior = set(prior.parameters()) if isinstance(prior, nn.Module) else set()
    return JointAdam(
        pair.named_parameters(),
        settings.learning_rate,
        settings.clip,
        lambda parameter: settings.prior_decay if parameter in of_prior else settings.weight_decay,
    )


def _train_epoch(
    maximized: Objective,
    data: Batch,
    rows: int,
    settings: Training,
    seed: int,
    epoch: int,
    diagnosis: Diagnosis,
    follow: Follow,
) -> float:
    """Take one pass over the data; return the mean training objective, with any annealing, in nats per data point."""
    generator = torch.Generator().manual_seed(derive(seed, "order", epoch))
    order = torch.randperm(len(data), generator=generator)
    if isinstance(data.x, Tensor):
        order = order.to(data.x.device)
    numbers = order.split(rows)
    total = 0.0
    with seeded(derive(seed, "noise", epoch)), warnings.catch_warnings(), pyro.validation_enabled(False):
        warnings.filterwarnings("ignore", message="Encountered NaN")  # FiniteTraceELBO raises instead
        if settings.compile == "auto":
            warnings.simplefilter("ignore", EagerWarning)
        for index, batch in enumerate(data.redrawn(derive(seed, "data", epoch)).batches(numbers)):
            # Pyro's validation finds errors of a model in its first step; later it only costs time
            first = pyro.validation_enabled(True) if epoch == 0 and index == 0 else nullcontext()
            follow(numbers[index])
            try:
                with first:
                    total += maximized.step(batch)
            except FlowvaeError:
                raise
            except (NonFiniteError, ValueError) as error:
                follow(None)  # the diagnosis scores other batches
                stopped = diagnosis.of_step(error, epoch, index, numbers[index], batch)
                if stopped is None:  # an error of the model, found by Pyro
                    raise
                raise stopped from None
    follow(None)
    return -total * rows / len(data)


def _ignore(numbers: Tensor | None) -> None:
    """Do nothing, for a prior that does not depend on which data are in a batch."""
