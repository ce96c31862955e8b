"""Training of experiments: all stages in order, each in its directory, with measures and figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from flowvae.core.errors import FlowvaeError, check_int_value, shown
from flowvae.core.files import as_path, write_table
from flowvae.core.memory import check_memory, watched
from flowvae.core.seeds import derive
from flowvae.data import Batch, Dataset, batch_of, identity_of
from flowvae.evaluation import draw_figures
from flowvae.evaluation.likelihood.importance_weights import check_draws
from flowvae.experiments.assemble import ModelGuide, build
from flowvae.experiments.directory import CHECKPOINT, HISTORY, LOCK, SETTINGS, writing
from flowvae.experiments.experiment import Experiment
from flowvae.experiments.places import (
    check_first_stage,
    check_place,
    forget_untrained,
    is_started,
    places_of,
    prepare_place,
    same_training,
    stored_facts,
)
from flowvae.experiments.prior_losses import losses_of_prior
from flowvae.experiments.reading import data_of_run, is_finished
from flowvae.experiments.run import Run, load
from flowvae.experiments.signature import Signature
from flowvae.experiments.stages import SecondStage, freeze_except_prior, load_stage_weights
from flowvae.inference import Fitted, checkpoint_digest, choose_device, fit
from flowvae.inference.objectives.own_loss import check_own_loss

__all__ = ["fit_prior", "train"]

DRAWS = 1000  # default K of the test NLL


@dataclass(frozen=True)
class _How:
    """Options of the training, measures and figures of every stage."""

    draws: int
    figures: bool
    progress: bool
    callbacks: Sequence[Callable[[dict[str, Any]], Any]] = ()
    trackers: Sequence[Any] = ()


def train(
    experiment: Experiment,
    directory: str | Path | None = None,
    *,
    overwrite: bool = False,
    resume: bool = False,
    draws: int | None = None,
    figures: bool = True,
    progress: bool = True,
    first_stage: Path | None = None,
    callbacks: Sequence[Callable[[dict[str, Any]], Any]] = (),
    trackers: Sequence[Any] = (),
) -> Run:
    """Train an experiment, measure it on the test split and draw figures, in one directory.

    Earlier stages of an experiment with a second stage are runs in directories inside of it.

    With `resume`, an interrupted run is continued. A finished run is extended if the experiment has other
    `Training.extendable` settings in its last stage, such as more epochs; the result equals that of a single training
    of this length.

    Args:
        experiment: the experiment.
        directory: directory of the run, created if it does not exist. Its experiment.yaml has absolute paths of the
            data. None: nothing is stored or measured, and parts need no name.
        overwrite: whether to delete the files of an earlier run there; an error if the directory has other files.
        resume: whether to continue an interrupted run of the same experiment, or extend a finished one.
        draws: K of the test NLL; None: 1000 or, with `resume`, the number that the run was started with.
        figures: whether to draw figures.
        progress: whether to show progress bars.
        first_stage: directory of a finished run of an earlier stage, which is copied instead of trained again.
        callbacks: functions of an epoch's row; one that returns True stops the training.
        trackers: objects with `start`, `log` and `finish`; see `flowvae.inference.Tracker`.

    Returns:
        The run of the last stage.

    Raises:
        DamagedError: if a file of the run to resume is damaged.
        FlowvaeError: for a directory that exists, cannot be written or is being written by another process, a part
            without a name in a run that is stored, or settings and data that do not fit; before any work.
    """
    directory = None if directory is None else as_path(directory)
    if directory is None and (resume or overwrite):
        raise FlowvaeError(f"directory = None with {'resume' if resume else 'overwrite'} = True: name the directory.")
    if draws is not None:
        check_int_value("draws", draws)
    if directory is not None:
        experiment = _with_absolute_paths(experiment)
        experiment.to_dict()  # raises an error for parts that could not be loaded
    if directory is not None and resume:
        data = data_of_run(experiment, directory / SETTINGS)
    else:
        data = experiment.data.load(experiment.seed)
    for stage in experiment.stages():
        choose_device(stage.last_training.device)
        stage.last_training.check_steps(len(data.train))
    if first_stage is not None:
        first_stage = as_path(first_stage)
        check_first_stage(experiment, first_stage)
    pair = _checked_pair(experiment, data)
    if (second := experiment.second_stage) and (second.distill or hasattr(pair.model.prior, "objective")):
        check_own_loss(second.inference, "a distillation" if second.distill else f"the prior {shown(second.prior)}")
    if draws is not None:
        check_draws(draws, Batch.of(data.test), experiment.latent_shape.numel())
    for stage in experiment.stages():
        _check_batches(stage, data)
    how = _How(draws or DRAWS, figures, progress, callbacks, trackers)
    if directory is None:
        return _train_in_memory(experiment, data, pair, how)
    kept = [*experiment.data.paths.values(), *([] if first_stage is None else [first_stage])]
    check = partial(check_place, experiment, data, directory, overwrite, resume, kept)
    try:
        check()  # before anything is written
    except (FlowvaeError, FileNotFoundError):
        if not (directory / LOCK).is_file():
            raise
        # Another process may be changing the directory: the check under the lock decides.
    with ExitStack() as locks:
        # no waiting if files are to be deleted: they may be those that another process has just written
        locks.enter_context(writing(directory, wait=0.0 if overwrite else 1.0))
        check()  # again, since no other process can change it now
        going_on = resume
        how = replace(how, draws=draws or _draws_before(experiment, directory, resume))
        waiting: list[tuple[Experiment, Path]] = []
        before: Run | None = None
        for stage, place in places_of(experiment, directory):  # last stage first
            if place != directory:
                resume = is_started(stage, place, first_stage)
                if is_finished(place):
                    before = load(place)
                    break
                check_place(stage, data, place, False, resume)
                locks.enter_context(writing(place))
            prepare_place(stage, place, resume)
            waiting.append((stage, place))
        for stage, place in reversed(waiting):
            mine = pair if place == directory else build(stage, data)
            try:
                before = _train_stage(stage, place, data, mine, before, how)
            except FlowvaeError:
                if not going_on:
                    forget_untrained(place)  # a corrected command can use the directory
                raise
    assert before is not None
    return before


def _with_absolute_paths(experiment: Experiment) -> Experiment:
    """Make the data paths absolute, so that they do not depend on the working directory."""
    moved = {name: path.absolute() for name, path in experiment.data.paths.items() if not path.is_absolute()}
    return replace(experiment, data=replace(experiment.data, **moved)) if moved else experiment  # type: ignore[type-var]


def _train_stage(stage: Experiment, place: Path, data: Dataset, pair: ModelGuide, before: Run | None, how: _How) -> Run:
    """Train, measure and draw one stage in a directory that has been checked, locked and prepared."""
    checkpoint = place / CHECKPOINT
    signature = Signature.of(data, stage.condition)
    identity = identity_of(data, stage.condition).as_dict()
    plain = stage.to_dict()
    settings = {"experiment": plain, "data": identity, "signature": signature.to_dict(), "draws": how.draws}
    stored = stored_facts(place)
    if stored and same_training(stored["settings"], settings, extended=False):
        settings = stored["settings"]  # data location and device may differ
    fitted = _fit_stage(stage, data, pair, before, how, checkpoint, settings)
    write_table(place / HISTORY, fitted.history)
    run = Run(
        stage,
        signature,
        pair,
        directory=place,
        checkpoint=checkpoint_digest(checkpoint),
        identity=identity,
        known_data=data,
    )
    run.evaluate(draws=how.draws, progress=how.progress)
    if how.figures:
        draw_figures(
            pair.model,
            pair.guide,
            data,
            fitted.history,
            place / "figures",
            stage.seed,
            how.progress,
            run.objective,
        )
    return run


def _train_in_memory(experiment: Experiment, data: Dataset, pair: ModelGuide, how: _How) -> Run:
    """Train all stages without a directory."""
    before: Run | None = None
    for stage in reversed(experiment.stages()):
        mine = pair if stage is experiment else build(stage, data)
        fitted = _fit_stage(stage, data, mine, before, how, None, None)
        before = Run(
            stage,
            Signature.of(data, stage.condition),
            mine,
            identity=identity_of(data, stage.condition).as_dict(),
            known_data=data,
            known_histories=(*(before.known_histories if before else ()), fitted.history),
        )
    assert before is not None
    return before


def _fit_stage(
    stage: Experiment,
    data: Dataset,
    pair: ModelGuide,
    before: Run | None,
    how: _How,
    checkpoint: Path | None,
    facts: dict[str, Any] | None,
) -> Fitted:
    second = stage.second_stage
    only_prior = second is not None and not second.fine_tune
    if second and before is not None:
        load_stage_weights(pair, before.pair, prior=second.before is not None)
    first_prior = None if before is None else before.pair.model.prior
    objective, validation = losses_of_prior(stage, data, pair, first_prior) if only_prior else (None, None)
    with freeze_except_prior(pair) if only_prior else nullcontext():
        return fit(
            pair.model,
            pair.guide,
            batch_of(data, stage.condition, "train"),
            batch_of(data, stage.condition, "valid"),
            stage.last_training,
            # other noise than in the previous stage
            seed=derive(stage.seed, second.follows) if second else stage.seed,
            checkpoint=checkpoint,
            facts=facts,
            progress=how.progress,
            callbacks=how.callbacks,
            trackers=how.trackers,
            objective=objective,
            validation=validation,
            same=same_training,
        )


def _checked_pair(experiment: Experiment, data: Dataset) -> ModelGuide:
    """Build model and guide, after checking that they fit into memory."""
    parts = ("latent", "encoder", "decoder", "prior", "guide")
    named = ", ".join(f"{name} = {shown(getattr(experiment, name))}" for name in parts)
    with watched(f"Experiment with {named}", "use a smaller latent, or smaller networks and flows"):
        return build(experiment, data)


def _check_batches(stage: Experiment, data: Dataset) -> None:
    """Check that the draws for one batch fit into memory: codes, the decoder's layers and its output."""
    training = stage.last_training
    widths = getattr(getattr(stage.decoder, "network", stage.decoder), "hidden_features", ())
    numbers = stage.latent_shape.numel() + sum(widths) + data.features
    rows = min(training.batch_size, len(data.train))
    for name, draws in (("particles", rows * training.particles), ("validation_draws", training.validation_draws)):
        check_memory(
            f"inference.{name} = {getattr(training, name)}",
            draws * numbers * data.train.dtype.itemsize,
            f"use fewer {name.replace('_', ' ')}",
        )


def _draws_before(experiment: Experiment, directory: Path, resume: bool) -> int:
    """Return the K that the run to resume was started with, from its last checkpoint or that of an earlier stage."""
    for _, place in places_of(experiment, directory) if resume else ():
        if facts := stored_facts(place):
            return int(facts["settings"].get("draws", DRAWS))
    return DRAWS


def fit_prior(
    run: str | Path,
    stage: SecondStage,
    directory: str | Path,
    *,
    overwrite: bool = False,
    draws: int = 1000,
    figures: bool = True,
    progress: bool = True,
    data: Any = None,
) -> Run:
    """Fit another prior to the aggregated posterior of a finished run, which is copied and not changed.

    Args:
        run: directory of the run.
        stage: the second stage: the prior, and how to fit it.
        directory: directory of the new run, into which the run is copied. An interrupted fit is resumed with
            `train(…, resume=True)`.
        overwrite: whether to delete the files of an earlier run there; an error if the directory has other files.
        draws: K of the test NLL.
        figures: whether to draw figures.
        progress: whether to show progress bars.
        data: the data of the run, if they were given in Python.

    Returns:
        The new run.

    Raises:
        FlowvaeError: if it is not a finished run or has two stages already, and in the cases of `train`.
    """
    run, directory = as_path(run), as_path(directory)
    if (run / SETTINGS).is_file() and not is_finished(run):
        raise FlowvaeError(f"{run}: is not finished; continue it first with --resume.")
    first = load(run, data).experiment
    if first.second_stage is not None:
        if stage.distill:
            raise FlowvaeError(
                f"{run}: has two stages already, and a teacher is the prior of the first; train "
                f"{shown(first.last_prior)} jointly, as Experiment.prior, or fit the student to the codes (fit-prior)."
            )
        raise FlowvaeError(f"{run}: has two stages already; fit the prior to its first, {run / 'first-stage'}.")
    if run.resolve().is_relative_to(directory.resolve()) or directory.resolve().is_relative_to(run.resolve()):
        raise FlowvaeError(f"{directory}: is inside {run} or contains it; name another directory.")
    # the device of the new stage, since that of the run may not be available
    first = replace(first, inference=replace(first.inference, device=stage.inference.device))
    return train(
        replace(first, second_stage=stage),
        directory,
        overwrite=overwrite,
        draws=draws,
        figures=figures,
        progress=progress,
        first_stage=run,
    )
