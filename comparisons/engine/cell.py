"""One cell of a grid: an experiment that is trained and measured once, in its own directory."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import threading
import traceback
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from flowvae.comparisons.engine.protocol import protocol_of
from flowvae.core.errors import (
    DamagedError,
    EstimatedDensityWarning,
    FlowvaeError,
    ImproperDensityWarning,
    IntractableError,
    SlowDirectionWarning,
)
from flowvae.core.files import atomic_write
from flowvae.evaluation import Effort, Metric
from flowvae.experiments.directory import ERROR, SETTINGS, is_empty, locked
from flowvae.experiments.experiment import Experiment, same_anywhere
from flowvae.experiments.reading import is_finished
from flowvae.experiments.run import MeasurementError, Run, load

__all__ = ["Work", "cell_name", "describe_error", "run_cell"]

# torch's generator and Pyro's stack are global: threads of one Dask worker must not share them
_PROCESS = threading.Lock()


@dataclass(frozen=True)
class Work:
    """How each cell is trained and measured.

    Args:
        draws: K of the test NLL.
        measures: further measures, by their names in `flowvae.evaluation.MEASURES`.
        effort: computational effort of the measures that refine guides or run chains.
        threads: number of threads.
        progress: whether to show progress bars of the training.
    """

    draws: int
    measures: tuple[str, ...]
    effort: Effort
    threads: int = 1
    progress: bool = False

    def missing(self, run: Run) -> list[str]:
        """Return the measures that a run lacks, or has with another number of draws or another effort."""
        measured = run.measured
        missing = [name for name in self.measures if measured.get(name, {}) not in (None, self.effort.as_dict())]
        if "likelihood" not in measured or run.metric("nll").protocol["draws"] != self.draws:
            missing.insert(0, "likelihood")
        return missing

    def fits(self, metric: Metric) -> bool:
        """Whether a metric was measured with these draws and this effort, if it depends on them."""
        protocol = metric.protocol
        same_draws = protocol["measure"] != "likelihood" or protocol["draws"] == self.draws
        return same_draws and protocol.get("effort") in (None, self.effort.as_dict())


def cell_name(experiment: Experiment) -> str:
    """Return the name of an experiment's directory: 16 digits of the SHA-256 of its settings, including the seed."""
    plain = json.dumps(experiment.to_dict(), sort_keys=True)
    return hashlib.sha256(plain.encode()).hexdigest()[:16]


def run_cell(name: str, experiment: Experiment, directory: Path, work: Work) -> dict[str, Any]:
    """Run a cell; return its row of the table or its error, whose traceback is kept in the cell's directory."""
    with _PROCESS, _threads(work.threads), warnings.catch_warnings():
        # no warnings about slow, improper or estimated densities: the question chose these arms
        for expected in (SlowDirectionWarning, ImproperDensityWarning, EstimatedDensityWarning):
            warnings.simplefilter("ignore", expected)
        try:
            return {"cell": name, **_finished_row(experiment, directory, work)}
        except Exception as error:  # no error may stop the other cells
            with suppress(OSError):  # such as a full disk
                directory.mkdir(parents=True, exist_ok=True)
                with atomic_write(directory / ERROR) as temporary:
                    temporary.write_text(traceback.format_exc(), encoding="utf-8", errors="backslashreplace")
            return {"cell": name, "error": describe_error(error)}


def describe_error(error: Exception) -> str:
    """Format class and message of an error on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _finished_row(experiment: Experiment, directory: Path, work: Work) -> dict[str, Any]:
    """Return the row of a cell, after setting aside a damaged cell and running what is missing.

    Making the row reads the files of all stages, so it also detects damage to an earlier stage.
    """
    with suppress(FlowvaeError, OSError):  # damage is handled below, under the lock
        if is_finished(directory):
            run = load(_check_settings(directory, experiment), experiment.data)
            if not work.missing(run) and not (directory / ERROR).exists():
                return _row(run, work)
    with _locked(directory):
        try:
            return _row(_trained_and_measured(experiment, directory, work), work)
        except DamagedError as error:
            aside = _set_aside(directory)
            warnings.warn(f"{error} The cell is kept as {aside.name}, and run again.", stacklevel=2)
            return _row(_trained_and_measured(experiment, directory, work), work)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold the lock of a cell; the lock file is outside the cell, which may be renamed."""
    file = directory.with_name(f".{directory.name}.lock")
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(file, wait=0))
        except TimeoutError:
            warnings.warn(f"{directory}: another process runs this cell; waiting for it.", stacklevel=4)
            stack.enter_context(locked(file))
        yield


def _trained_and_measured(experiment: Experiment, directory: Path, work: Work) -> Run:
    """Load the run of a finished cell, resume that of an interrupted one, or train a new one.

    Raises:
        DamagedError: for any other content of the directory; a missing data file is not damage.
    """
    how: dict[str, Any] = {"draws": work.draws, "figures": False, "progress": work.progress}
    how["first_stage"] = _earlier_cell(experiment, directory.parent)
    if directory.is_symlink() or (directory.exists() and not directory.is_dir()):
        raise DamagedError(f"{directory}: is not a directory.")
    if not directory.exists() or is_empty(directory):
        run = experiment.run(directory, **how)
    elif is_finished(_check_settings(directory, experiment)):
        run = load(directory, experiment.data)
    else:  # with the device in its experiment.yaml
        stored = Experiment.from_yaml(directory / SETTINGS)
        run = replace(stored, data=experiment.data).run(directory, resume=True, **how)
    try:
        run.evaluate(measures=work.missing(run), draws=work.draws, effort=work.effort, progress=work.progress)
    except MeasurementError as error:
        # an arm without such a quantity, such as a density in closed form, has no value in that column
        if not all(isinstance(reason, IntractableError) for reason in error.reasons.values()):
            raise
    (directory / ERROR).unlink(missing_ok=True)  # of an earlier attempt
    return run


def _check_settings(directory: Path, experiment: Experiment) -> Path:
    """Return the directory of a cell, after checking that its settings are those of the experiment.

    Raises:
        DamagedError: if they are not, or cannot be read.
    """
    try:
        same = same_anywhere(Experiment.from_yaml(directory / SETTINGS), experiment)
    except FlowvaeError as error:
        raise DamagedError(str(error)) from None
    if not same:
        raise DamagedError(f"{directory}: its settings do not match the hash in its name.")
    return directory


def _set_aside(directory: Path) -> Path:
    """Rename a damaged cell, so that it can be inspected."""
    names = (directory.with_name(f"{directory.name}.damaged-{number}") for number in itertools.count(1))
    aside = next(name for name in names if not os.path.lexists(name))
    directory.rename(aside)
    return aside


def _earlier_cell(experiment: Experiment, directory: Path) -> Path | None:
    """Return the finished cell of another arm that is the latest earlier stage of the experiment, if there is one."""
    for stage in list(experiment.stages())[1:]:
        cell = directory / cell_name(stage)
        if is_finished(cell):
            with suppress(FlowvaeError, OSError):  # its own grid handles damage
                return load(cell).directory
    return None


def _row(run: Run, work: Work) -> dict[str, Any]:
    """Return the row of the table for a run, after checking that its data are those of the training.

    Metrics with other draws or another effort, such as those that a user has computed later, are left out.

    Raises:
        FlowvaeError: if the data are missing or have changed.
    """
    protocol = protocol_of(run.data, run.experiment.condition)
    history = run.whole_history
    return {
        "parameters": run.parameters,
        "epochs": len(history),
        "seconds": history["seconds"].sum(),
        "seconds_per_epoch": history["seconds"].median(),
        **{m.name if m.split == "test" else f"{m.name}_{m.split}": m.value for m in run.metrics if work.fits(m)},
        "nll_trusted": run.metric("nll").caution is None,
        **protocol,
    }
