"""The directories that a training writes to, one per stage: checks of their content, and preparation."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from flowvae.core.errors import DamagedError, FlowvaeError, one_line
from flowvae.data import Dataset, identity_of
from flowvae.evaluation import read_metrics
from flowvae.experiments.directory import (
    CHECKPOINT,
    HISTORY,
    LOCK,
    METRICS,
    SETTINGS,
    check_files,
    copy_run,
    delete_leftovers,
    delete_run,
    foreign,
    holds_run,
    is_empty,
    writing,
)
from flowvae.experiments.experiment import Experiment, changed_settings, same_anywhere
from flowvae.experiments.reading import read_signature
from flowvae.experiments.run import load
from flowvae.inference import checkpoint_digest, load_checkpoint

__all__ = [
    "check_first_stage",
    "check_place",
    "forget_untrained",
    "is_started",
    "places_of",
    "prepare_place",
    "same_training",
    "stored_facts",
]


def places_of(experiment: Experiment, directory: Path) -> list[tuple[Experiment, Path]]:
    """Return every stage with its directory, the last stage first."""
    found = []
    for stage in experiment.stages():
        found.append((stage, directory))
        if stage.second_stage:
            directory = directory / stage.second_stage.follows
    return found


def check_place(
    experiment: Experiment, data: Dataset, directory: Path, overwrite: bool, resume: bool, kept: Sequence[Path] = ()
) -> None:
    """Check that a training may write to a directory.

    An existing run needs `overwrite` or `resume`; files that no run has written are never deleted.

    Args:
        experiment: the stage that is to be trained there.
        data: data of the experiment.
        directory: the directory.
        overwrite: whether an existing run is to be deleted.
        resume: whether an existing run is to be continued.
        kept: files and directories that must not be deleted.

    Raises:
        DamagedError: for a link or a directory in place of a file of the run.
        FlowvaeError: for any other content that prevents the training.
    """
    if resume:
        _check_goes_on(experiment, data, directory)
        return
    if directory.exists() and not directory.is_dir():
        raise FlowvaeError(f"{directory}: is a file; name a directory.")
    if not directory.exists() or is_empty(directory):
        return
    if not overwrite:
        ways = ["name another directory"]
        ways += ["continue it (--resume)"] if (directory / SETTINGS).is_file() else []
        ways += ["delete it (--overwrite)"] if holds_run(directory) else []
        raise FlowvaeError(f"{directory}: exists; {', or '.join(ways)}.")
    if other := next(foreign(directory), None):
        raise FlowvaeError(
            f"{directory}: is not a run alone, so it is not deleted: {other} is not a file of a run; move it, or "
            "name another directory."
        )
    if not holds_run(directory):
        raise FlowvaeError(f"{directory}: is not a run of flowvae, so it is not deleted; delete it yourself.")
    with suppress(FileNotFoundError):  # the working directory may have been deleted
        for inside in (*kept, Path()):
            if inside.resolve().is_relative_to(directory.resolve()):
                raise FlowvaeError(
                    f"{directory}: contains {inside.resolve()}, which is in use, so it is not deleted; name another "
                    "directory."
                )


def _check_goes_on(experiment: Experiment, data: Dataset, directory: Path) -> None:
    """Check that the run in a directory can be continued with these settings and data."""
    plain = [Experiment.from_yaml(directory / SETTINGS).to_dict()]
    check_files(directory)
    facts = stored_facts(directory)
    plain += [facts["settings"]["experiment"]] if facts else []
    for stored in plain:  # experiment.yaml may be newer than the checkpoint
        if changed := changed_settings(experiment, stored, extended=True):
            raise FlowvaeError(
                f"{directory}: has another experiment ({', '.join(changed)}); continue with the settings of its "
                "experiment.yaml, or name another directory."
            )
    if facts:
        then, now = facts["settings"]["data"], identity_of(data, experiment.condition).as_dict()
        if then["sha256"] != now["sha256"]:
            raise FlowvaeError(f"{directory}: was trained on {one_line(then)}, but the data are now {now}.")
        try:
            experiment.last_training.check_extends(facts["training"], facts["progress"]["epoch"])
        except FlowvaeError as error:
            raise FlowvaeError(f"{directory}: {error}") from None


def check_first_stage(experiment: Experiment, finished: Path) -> None:
    """Check that a finished run is one of the earlier stages of an experiment.

    Raises:
        FlowvaeError: if it is not.
    """
    found = load(finished).experiment
    if not any(same_anywhere(found, stage) for stage in experiment.stages()[1:]):
        raise FlowvaeError(f"first_stage = {finished}: is not the run of an earlier stage of this experiment.")


def is_started(stage: Experiment, place: Path, finished: Path | None) -> bool:
    """Whether an earlier stage has been started in its directory; a finished run of the stage is copied there first.

    Args:
        stage: the earlier stage.
        place: its directory.
        finished: a finished run; None: there is none.

    Raises:
        DamagedError: if the directory has anything else.
    """
    if finished is not None and not place.exists() and same_anywhere(load(finished).experiment, stage):
        copy_run(finished, place)
    if not place.exists() or (place.is_dir() and is_empty(place)):
        return False
    try:
        changed = changed_settings(stage, Experiment.from_yaml(place / SETTINGS).to_dict())
    except FlowvaeError as error:
        raise DamagedError(str(error)) from None
    if changed:
        raise DamagedError(
            f"{place}: has another experiment than the previous stage ({', '.join(changed)}); move it elsewhere, and "
            "the stage is trained again."
        )
    with writing(place):
        _store_settings(stage, place)
    return True


def prepare_place(stage: Experiment, place: Path, resume: bool) -> None:
    """Prepare a directory for the training of a stage.

    If a run is extended, its measures and history are deleted before the settings are written, so that an interruption
    leaves a run that can be resumed, and no metrics of older weights.

    Raises:
        DamagedError: if the checkpoint or the measures of a run that is to be resumed are damaged.
    """
    delete_leftovers(place)
    if not resume:
        delete_run(place)
        stage.to_yaml(place / SETTINGS)
    facts = stored_facts(place)
    checkpoint, history, metrics = (place / name for name in (CHECKPOINT, HISTORY, METRICS))
    extended = facts is not None and bool(changed_settings(stage, facts["settings"]["experiment"]))
    if extended or not (checkpoint.is_file() and history.is_file()):
        for file in (metrics, history):
            file.unlink(missing_ok=True)  # they belong to weights that the training will replace
    elif metrics.is_file():
        read_metrics(metrics, checkpoint_digest(checkpoint))  # raises an error if it is damaged
    _store_settings(stage, place)


def forget_untrained(place: Path) -> None:
    """Delete the settings of a training that failed before its first epoch, if the directory has nothing else."""
    if {file.name for file in place.iterdir()} <= {SETTINGS, LOCK}:
        (place / SETTINGS).unlink(missing_ok=True)


def stored_facts(place: Path) -> dict[str, Any] | None:
    """Return the facts of the checkpoint in a directory; None if there is no checkpoint.

    Raises:
        DamagedError: if it is damaged.
        FlowvaeError: if it was written by an earlier version.
    """
    if not (place / CHECKPOINT).is_file():
        return None
    facts = load_checkpoint(place / CHECKPOINT)[1]
    read_signature(place, facts)
    return facts


def same_training(stored: dict[str, Any], given: dict[str, Any], extended: bool = True) -> bool:
    """Whether the facts of two checkpoints belong to one experiment on the same data.

    Args:
        stored: facts of the stored checkpoint.
        given: facts of the training that is to continue from it.
        extended: whether the training may be longer.
    """
    changed = changed_settings(Experiment.from_dict(given["experiment"]), stored["experiment"], extended)
    same: bool = stored["data"]["sha256"] == given["data"]["sha256"]
    return same and not changed


def _store_settings(stage: Experiment, place: Path) -> None:
    """Update experiment.yaml, such as the length of the training, the data location and the device."""
    if Experiment.from_yaml(place / SETTINGS) != stage:
        stage.to_yaml(place / SETTINGS)
