"""Reading of runs from their directories or exported files."""

from __future__ import annotations

import warnings
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from flowvae.core.errors import (
    DamagedError,
    EstimatedDensityWarning,
    FlowvaeError,
    ImproperDensityWarning,
    OtherDeviceWarning,
    SlowDirectionWarning,
    UnfinishedRunWarning,
    one_line,
)
from flowvae.core.parts import Units
from flowvae.data import Dataset
from flowvae.experiments.assemble import ModelGuide, assemble
from flowvae.experiments.directory import CHECKPOINT, HISTORY, METRICS, SETTINGS
from flowvae.experiments.experiment import Experiment, changed_settings
from flowvae.experiments.signature import Signature
from flowvae.inference import best_weights, choose_device, history_table, load_checkpoint

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Opened",
    "check_history",
    "data_of_run",
    "is_finished",
    "open_directory",
    "open_pair",
    "read_histories",
    "read_history",
    "read_signature",
]


class Opened(NamedTuple):
    """The content of a run's files: settings, description of the data, weights and checksum of the checkpoint."""

    experiment: Experiment
    signature: Signature
    pair: ModelGuide
    identity: dict[str, str]  # of the data
    checkpoint: str


def open_directory(directory: Path) -> Opened:
    """Read the directory of a run.

    Raises:
        DamagedError: if its checkpoint is missing or damaged, history.csv has been edited, or experiment.yaml has been
            changed in anything but data locations and devices.
        FlowvaeError: if it is not a run.
    """
    exported = sorted(directory.glob("*.safetensors")) if not (directory / SETTINGS).exists() else []
    if exported and exported[0].name != CHECKPOINT:
        raise FlowvaeError(
            f"{directory}: is not the directory of a run; load({str(exported[0])!r}) opens the file in it."
        )
    experiment = Experiment.from_yaml(directory / SETTINGS)
    finished = (directory / HISTORY).is_file()
    if finished and not (directory / CHECKPOINT).is_file():
        raise DamagedError(f"{directory / CHECKPOINT}: no such checkpoint; restore it, or train again (--overwrite).")
    tensors, facts = load_checkpoint(directory / CHECKPOINT)
    signature = read_signature(directory, facts)  # checks that there are settings
    stored = facts["settings"]
    # the settings of an extended training are written before its first checkpoint
    if changed := changed_settings(experiment, stored["experiment"], extended=not finished):
        raise DamagedError(
            f"{directory}: experiment.yaml does not match its checkpoint in {', '.join(changed)}; "
            "restore the file, or train the new settings into another directory."
        )
    if finished:
        check_history(directory, facts)
    else:
        warnings.warn(
            f"{directory}: its training has not ended; these are its best weights so far. Continue it with --resume.",
            UnfinishedRunWarning,
            stacklevel=3,
        )
    pair = open_pair(str(directory), experiment, signature, best_weights(tensors))
    return Opened(experiment, signature, pair, stored["data"], facts["sha256"])


def read_signature(directory: Path, facts: dict[str, Any]) -> Signature:
    """Return the signature of the data from a checkpoint.

    Raises:
        FlowvaeError: for a checkpoint without a signature, such as one of an earlier version.
    """
    settings = facts.get("settings")
    try:
        return Signature.from_dict(settings.get("signature") if isinstance(settings, dict) else None)
    except FlowvaeError as error:
        raise FlowvaeError(f"{directory}: {error}") from None


def open_pair(
    where: str, experiment: Experiment, signature: Signature, weights: dict[str, dict[str, Tensor]]
) -> ModelGuide:
    """Build model and guide with these weights, without the data, on the device of the experiment.

    If that device is not available, another one is used, with an `OtherDeviceWarning`.

    Raises:
        FlowvaeError: for weights of another type than torch's default.
    """
    if (default := str(torch.get_default_dtype()).removeprefix("torch.")) != signature.dtype:
        raise FlowvaeError(
            f"{where}: was trained in {signature.dtype}, but networks are made in {default}; call "
            f"torch.set_default_dtype(torch.{signature.dtype}) first."
        )
    model, guide = weights["model"], weights["guide"]
    units = Units(guide["encoder.0.center"], guide["encoder.0.unit"])
    center = model.get("standardize.center")
    covariates = None if center is None else Units(center, model["standardize.unit"])
    # shape of the training data without their memory; their values are not needed, since all weights are loaded
    train = torch.zeros(1).expand(signature.rows, *signature.shape)
    with warnings.catch_warnings():
        # given when it was trained
        for said in (SlowDirectionWarning, ImproperDensityWarning, EstimatedDensityWarning):
            warnings.simplefilter("ignore", said)
        pair = assemble(experiment, signature, units, train, covariates)
    pair.model.load_state_dict(model)
    pair.guide.load_state_dict(guide)
    try:
        device = choose_device(experiment.inference.device)
    except FlowvaeError as error:
        device = choose_device("auto")
        warnings.warn(f"{where}: {error} It is opened on {device}.", OtherDeviceWarning, stacklevel=4)
    for part in pair:
        part.to(device)
    return pair


def data_of_run(experiment: Experiment, file: Path) -> Dataset:
    """Load the data of a run from the location in its experiment.yaml.

    Raises:
        FlowvaeError: if they cannot be loaded.
    """
    try:
        return experiment.data.load(experiment.seed)
    except FlowvaeError as error:
        missing = {name: path for name, path in experiment.data.paths.items() if not path.exists()}
        if not missing:
            raise
        name, path = next(iter(missing.items()))
        looked = "" if path.is_absolute() else f" It was looked for in {Path.cwd()}."
        raise FlowvaeError(f"{error}{looked} If the data have moved, correct data.{name} in {file}.") from None


def check_history(directory: Path, facts: dict[str, Any]) -> pd.DataFrame:
    """Return the history in the facts of a checkpoint, one row per epoch.

    Raises:
        DamagedError: if history.csv differs from it.
    """
    import pandas as pd

    history = history_table(facts["progress"]["rows"], facts["progress"]["best_epoch"])
    file = directory / HISTORY
    try:
        expected = pd.read_csv(StringIO(history.to_csv(index=False)), dtype=str)  # every digit counts
        same, reason = pd.read_csv(file, dtype=str).equals(expected), "its rows differ"
    except (FileNotFoundError, ValueError) as error:
        same, reason = False, one_line(error)
    if not same:
        raise DamagedError(
            f"{file}: does not match the checkpoint beside it ({reason}); continue the run with --resume, which "
            "writes it again."
        )
    return history


def read_history(directory: Path) -> pd.DataFrame:
    """Read the history of the stage that was trained in a directory, one row per epoch.

    Raises:
        DamagedError: if history.csv differs from the checkpoint.
        FlowvaeError: if its training has not ended.
    """
    if not (directory / HISTORY).is_file():
        raise FlowvaeError(f"{directory}: its training has not ended; continue it with --resume.")
    return check_history(directory, load_checkpoint(directory / CHECKPOINT)[1])


def read_histories(directory: Path, experiment: Experiment) -> list[pd.DataFrame]:
    """Read the histories of all stages, the first stage first, each with one row per epoch.

    Raises:
        DamagedError: if the history or checkpoint of an earlier stage is missing or damaged.
        FlowvaeError: if the training of the last stage has not ended.
    """
    found = [read_history(directory)]
    for stage in experiment.stages():
        if stage.second_stage:
            directory = directory / stage.second_stage.follows
            try:
                found.append(check_history(directory, load_checkpoint(directory / CHECKPOINT)[1]))
            except FlowvaeError as error:
                raise DamagedError(str(error)) from None
    return found[::-1]


def is_finished(directory: str | Path) -> bool:
    """Whether the training of the run in a directory has ended and the run has been measured."""
    directory = Path(directory)
    return (directory / HISTORY).is_file() and (directory / METRICS).is_file()
