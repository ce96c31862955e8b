"""Arms × seeds, every cell an experiment in a directory of its own, on one machine or on a cluster."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import joblib
import pandas as pd
import torch
from tqdm.auto import tqdm

from flowvae.core.errors import (
    DamagedError,
    EstimatedDensityWarning,
    FlowvaeError,
    ImproperDensityWarning,
    SlowDirectionWarning,
    one_line,
    shown,
)
from flowvae.core.files import as_path, atomic_write
from flowvae.evaluation import Effort
from flowvae.experiments.directory import ERROR, SETTINGS, is_empty, locked, make_directory
from flowvae.experiments.experiment import Experiment, load, same_anywhere
from flowvae.experiments.run import Run, is_finished

__all__ = ["Grid", "cell_name", "run_grid"]

# torch's generator and Pyro's stack belong to the process: threads of one Dask worker must not share them
ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True)
class Grid:
    """What a grid gave.

    Args:
        table: one row a finished cell: arm, seed, cell, parameters, epochs, seconds, seconds_per_epoch, every test
            measure by its name (one of another split has the split after its name), and whether the importance weights
            behind the NLL can be trusted.
        failed: one row a cell that broke: arm, seed, cell, error.
    """

    table: pd.DataFrame
    failed: pd.DataFrame


def cell_name(experiment: Experiment) -> str:
    """The name of an experiment's directory: 16 digits of the SHA-256 of its settings, the seed among them."""
    plain = json.dumps(experiment.to_dict(), sort_keys=True)
    return hashlib.sha256(plain.encode()).hexdigest()[:16]


def run_grid(
    arms: Mapping[str, Experiment],
    seeds: range,
    directory: Path,
    *,
    jobs: int = 1,
    scheduler: str | None = None,
    draws: int = 1000,
    measures: tuple[str, ...] = (),
    effort: Effort | None = None,
    progress: bool = True,
) -> Grid:
    """Run every arm with every seed and gather the measures.

    A cell that is done is loaded, one that was interrupted goes on from its checkpoint, one that broke is tried
    again; a cell that breaks is reported and stops no other, even if it takes its process with it. Each cell computes
    with one thread, so a grid gives the same table whatever the number of jobs. Grids that run at the same time may
    share a directory: a cell is run by one of them, and the others wait for it.

    A cell that is damaged (a file of it is missing, truncated or edited) is set aside under another name, with a
    warning, and run again.

    Args:
        arms: experiments by name; their own seed is replaced.
        seeds: decide split, initial weights, order of batches and noise; the same in every arm.
        directory: where the cells go, one directory each, named by the hash of its settings; grids that share a
            directory share the cells that they have in common.
        jobs: processes at a time.
        scheduler: address of a Dask scheduler ("tcp://host:8786") that shares `directory` with this machine; its
            workers then run the cells instead of processes here.
        draws: K of the test NLL.
        measures: further measures of each cell, by their names in `flowvae.evaluation.MEASURES`.
        effort: size of the measures that refine guides or run chains.
        progress: whether to show a progress bar over the cells.

    Raises:
        FlowvaeError: for no arms or seeds, fewer than one job, two arms that are the same experiment, a scheduler
            without Dask, or a directory that cannot be written.
    """
    if jobs < 1:
        raise FlowvaeError(f"jobs = {jobs}: must be 1 or more.")
    cells = {(arm, seed): replace(experiment, seed=seed) for seed in seeds for arm, experiment in arms.items()}
    if not cells:
        raise FlowvaeError("a grid without arms or without seeds: name one of each, or more.")
    names = {key: cell_name(experiment) for key, experiment in cells.items()}
    for (arm, seed), name in names.items():
        twin = next(other for (other, of), same in names.items() if of == seed and same == name)
        if twin != arm:
            raise FlowvaeError(f"arms {shown(twin)} and {shown(arm)}: are the same experiment; leave one of them out.")
    directory = as_path(directory).resolve()  # workers may have been started elsewhere
    make_directory(directory)
    index = pd.DataFrame([{"arm": arm, "seed": seed, "cell": name} for (arm, seed), name in names.items()])
    work = {
        names[key]: joblib.delayed(_run_cell)(
            names[key], experiment, directory / names[key], draws, measures, effort or Effort()
        )
        for key, experiment in cells.items()
    }
    with _backend(scheduler), tqdm(total=len(cells), unit="cell", disable=None if progress else True) as bar:
        # more processes than cells would start, and wait
        rows = _run_all(work, min(jobs, max(2, len(cells))) if scheduler is None else -1, bar.update)
    done = index.merge(pd.DataFrame(rows), on="cell")
    columns = ["arm", "seed", "cell", "error"]
    broken = done["error"].notna() if "error" in done else pd.Series(False, index=done.index)
    table = done[~broken].drop(columns="error", errors="ignore").reset_index(drop=True)
    return Grid(table, done[broken].reindex(columns=columns).reset_index(drop=True))


def _run_all(work: dict[str, Any], jobs: int, tell: Callable[[], object]) -> list[dict[str, Any]]:
    """The rows of all cells, whatever becomes of the processes that compute them.

    A cell keeps its own errors to itself, so an error here says that a worker was lost (killed, or out of memory) and
    not with which cell. What is left is tried together once more, then each cell alone, so that the one to blame is
    known and costs no other.
    """
    rows: dict[str, dict[str, Any]] = {}

    def take(names: list[str], processes: int) -> None:
        for row in joblib.Parallel(n_jobs=processes, return_as="generator_unordered")(work[name] for name in names):
            rows[row["cell"]] = row
            tell()

    for _ in range(2):
        try:
            take([name for name in work if name not in rows], jobs)
            return list(rows.values())
        except Exception as error:
            warnings.warn(f"a worker was lost ({_said(error)}); its cells are tried again.", stacklevel=3)
    for name in [name for name in work if name not in rows]:
        try:
            take([name], 2 if jobs > 0 else jobs)  # two, so that it is a process of its own
        except Exception as error:
            rows[name] = {"cell": name, "error": _said(error)}
            tell()
    return list(rows.values())


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


@contextmanager
def _backend(scheduler: str | None) -> Iterator[None]:
    """Joblib's own processes, or the workers of a Dask cluster."""
    with ExitStack() as stack:
        if scheduler is not None:
            try:
                from distributed import Client
            except ImportError:
                raise FlowvaeError(
                    f"scheduler = {shown(scheduler)}: Dask is not installed; install it with pip install -e "
                    "'.[cluster]' in the project's folder."
                ) from None
            try:
                stack.enter_context(Client(scheduler, timeout=10))
            except (OSError, ValueError) as error:
                raise FlowvaeError(
                    f"scheduler = {shown(scheduler)}: no Dask scheduler answers there ({one_line(error)}); start one "
                    "with `dask scheduler` and workers with `dask worker ADDRESS --nworkers 4 --nthreads 1`."
                ) from None
            stack.enter_context(joblib.parallel_config(backend="dask"))
        yield


def _run_cell(
    name: str, experiment: Experiment, directory: Path, draws: int, measures: tuple[str, ...], effort: Effort
) -> dict[str, Any]:
    """A row of the table, or of what failed; the traceback stays in the cell's directory."""
    with ONE_AT_A_TIME:
        return _run_alone(name, experiment, directory, draws, measures, effort)


def _run_alone(
    name: str, experiment: Experiment, directory: Path, draws: int, measures: tuple[str, ...], effort: Effort
) -> dict[str, Any]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with warnings.catch_warnings():
            # an arm is slow, improper or estimated because the question asks for it
            for asked in (SlowDirectionWarning, ImproperDensityWarning, EstimatedDensityWarning):
                warnings.simplefilter("ignore", asked)
            return {"cell": name, **_row_of(experiment, directory, draws, measures, effort)}
    except Exception as error:  # whatever it was, the other cells go on
        with suppress(OSError):  # a full disk, say
            directory.mkdir(parents=True, exist_ok=True)
            with atomic_write(directory / ERROR) as temporary:
                temporary.write_text(traceback.format_exc(), encoding="utf-8", errors="backslashreplace")
        return {"cell": name, "error": _said(error)}
    finally:
        torch.set_num_threads(threads)


def _row_of(
    experiment: Experiment, directory: Path, draws: int, measures: tuple[str, ...], effort: Effort
) -> dict[str, Any]:
    """The row of a cell, which is run or measured if it has to be; what is damaged is set aside first."""
    with suppress(FlowvaeError, OSError):  # it is looked into below
        if is_finished(directory):
            run = load(_checked(directory, experiment))
            if not _missing(run, draws, measures, effort) and not (directory / ERROR).exists():
                return _row(run)
    with _only_here(directory):
        try:
            return _row(_measured(experiment, directory, draws, measures, effort))
        except DamagedError as error:
            aside = _set_aside(directory)
            warnings.warn(f"{error} The cell is kept as {aside.name}, and run again.", stacklevel=2)
            return _row(_measured(experiment, directory, draws, measures, effort))


@contextmanager
def _only_here(directory: Path) -> Iterator[None]:
    """Hold the lock of a cell, which lies beside it: the cell may be renamed."""
    file = directory.with_name(f".{directory.name}.lock")
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(file, wait=0))
        except TimeoutError:
            warnings.warn(f"{directory}: another grid runs this cell; waiting for it.", stacklevel=4)
            stack.enter_context(locked(file))
        yield


def _measured(experiment: Experiment, directory: Path, draws: int, measures: tuple[str, ...], effort: Effort) -> Run:
    """The cell's run with all its measures; loaded where it is whole, gone on with where it was interrupted.

    Raises:
        DamagedError: if what is there is neither; a file of data that is missing for once is not damage.
    """
    how: dict[str, Any] = {"draws": draws, "figures": False, "progress": False}
    how["first_stage"] = _earlier_cell(experiment, directory.parent)
    if directory.is_symlink() or (directory.exists() and not directory.is_dir()):
        raise DamagedError(f"{directory}: is not a directory.")
    if not directory.exists() or is_empty(directory):
        run = experiment.run(directory, **how)
    elif is_finished(_checked(directory, experiment)):
        run = load(directory)
    else:  # with the place of the data and the device that its file has now
        run = Experiment.from_yaml(directory / SETTINGS).run(directory, resume=True, **how)
    run.evaluate(measures=_missing(run, draws, measures, effort), draws=draws, effort=effort, progress=False)
    (directory / ERROR).unlink(missing_ok=True)  # of an earlier try, such as a measure that broke
    return run


def _missing(run: Run, draws: int, measures: tuple[str, ...], effort: Effort) -> list[str]:
    """The measures that a cell lacks, or has of another number of draws or another effort."""
    measured = run.measured
    missing = [name for name in measures if measured.get(name, {}) not in (None, effort.as_dict())]
    if "likelihood" not in measured or run.metric("nll").protocol["draws"] != draws:
        missing.insert(0, "likelihood")
    return missing


def _checked(directory: Path, experiment: Experiment) -> Path:
    """The directory of a cell, whose settings are those of the experiment.

    Raises:
        DamagedError: if they are not, or cannot be read.
    """
    try:
        same = same_anywhere(Experiment.from_yaml(directory / SETTINGS), experiment)
    except FlowvaeError as error:
        raise DamagedError(str(error)) from None
    if not same:
        raise DamagedError(f"{directory}: holds another experiment than its name says.")
    return directory


def _set_aside(directory: Path) -> Path:
    """Give a damaged cell another name, so that it can be looked into."""
    names = (directory.with_name(f"{directory.name}.damaged-{number}") for number in itertools.count(1))
    aside = next(name for name in names if not os.path.lexists(name))
    directory.rename(aside)
    return aside


def _earlier_cell(experiment: Experiment, directory: Path) -> Path | None:
    """The cell in which an earlier stage of the experiment has been finished for another arm, the last such stage."""
    for stage in list(experiment.stages())[1:]:
        cell = directory / cell_name(stage)
        if is_finished(cell):
            with suppress(FlowvaeError, OSError):  # its own grid looks into it
                return load(cell).directory
    return None


def _row(run: Run) -> dict[str, Any]:
    history = run.whole_history
    return {
        "parameters": run.parameters,
        "epochs": len(history),
        "seconds": history["seconds"].sum(),
        "seconds_per_epoch": history["seconds"].median(),
        **{m.name if m.split == "test" else f"{m.name}_{m.split}": m.value for m in run.metrics},
        "nll_trusted": run.metric("nll").caution is None,
    }
