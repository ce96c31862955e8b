"""A grid of arms × seeds, run on one machine or on a cluster."""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowvae.comparisons.engine.cell import Work, cell_name, describe_error, run_cell
from flowvae.core.errors import FlowvaeError, one_line, shown
from flowvae.core.files import as_path
from flowvae.core.progress import bar
from flowvae.evaluation import Effort
from flowvae.experiments.directory import make_directory
from flowvae.experiments.experiment import Experiment

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Grid", "cell_name", "run_grid"]


@dataclass(frozen=True)
class Grid:
    """The results of a grid.

    Args:
        table: one row per finished cell: arm, seed, cell, parameters, epochs, seconds, seconds_per_epoch, every test
            measure by its name (those of other splits with the split as suffix), whether the importance weights of
            the NLL are reliable, and the protocol with the checksum of the data.
        failed: one row per failed cell: arm, seed, cell, error.
    """

    table: pd.DataFrame
    failed: pd.DataFrame


def run_grid(
    arms: Mapping[str, Experiment],
    seeds: Sequence[int],
    directory: Path,
    *,
    jobs: int = 1,
    threads: int = 1,
    scheduler: str | None = None,
    draws: int = 1000,
    measures: tuple[str, ...] = (),
    effort: Effort | None = None,
    progress: bool = True,
    cell_progress: bool = False,
) -> Grid:
    """Run every arm with every seed and collect the measures.

    A finished cell is loaded, an interrupted one is resumed from its checkpoint, a failed one is run again. A failing
    cell is reported and does not stop the others, even if its process dies. All cells use the same number of threads,
    so the table does not depend on the number of jobs. Concurrent grids may share a directory: each cell is run by one
    of them, and the others wait for it.

    A damaged cell (with a missing, truncated or edited file) is renamed, with a warning, and run again.

    Args:
        arms: experiments by name; their own seed is replaced.
        seeds: seeds of split, initial weights, order of batches and noise; the same in every arm.
        directory: parent directory of the cells, each named by the hash of its settings; grids with the same directory
            share the cells that they have in common.
        jobs: number of parallel processes.
        threads: number of threads of each cell.
        scheduler: address of a Dask scheduler ("tcp://host:8786") that shares `directory` with this machine; its
            workers then run the cells instead of local processes.
        draws: K of the test NLL.
        measures: further measures of each cell, by their names in `flowvae.evaluation.MEASURES`.
        effort: computational effort of the measures that refine guides or run chains.
        progress: whether to show a progress bar over the cells.
        cell_progress: whether to show the progress bars of each cell; for few long cells and one job.

    Raises:
        FlowvaeError: without arms or seeds, for fewer than one job, two arms with the same experiment, a scheduler that
            cannot be used, or a directory that cannot be written.
    """
    import joblib
    import pandas as pd

    if jobs < 1:
        raise FlowvaeError(f"jobs = {jobs}: must be 1 or more.")
    cells = {(arm, seed): replace(experiment, seed=seed) for seed in seeds for arm, experiment in arms.items()}
    if not cells:
        raise FlowvaeError("the grid has no arms or no seeds; give one or more of each.")
    names = {key: cell_name(experiment) for key, experiment in cells.items()}
    for (arm, seed), name in names.items():
        twin = next(other for (other, of), same in names.items() if of == seed and same == name)
        if twin != arm:
            raise FlowvaeError(f"arms {shown(twin)} and {shown(arm)}: are the same experiment; leave one out.")
    directory = as_path(directory).resolve()  # workers may have another working directory
    make_directory(directory)
    index = pd.DataFrame([{"arm": arm, "seed": seed, "cell": name} for (arm, seed), name in names.items()])
    work = Work(draws, measures, effort or Effort(), threads, cell_progress)
    parent = os.getpid() if scheduler is None else None
    tasks = {
        names[key]: joblib.delayed(_run_in_worker)(parent, names[key], experiment, directory / names[key], work)
        for key, experiment in cells.items()
    }
    with _backend(scheduler), bar("cells", "cell", len(cells), progress=progress, leave=True) as running:
        # more processes than cells would be idle
        rows = _run_all(tasks, min(jobs, max(2, len(cells))) if scheduler is None else -1, running.update)
    done = index.merge(pd.DataFrame(rows), on="cell")
    columns = ["arm", "seed", "cell", "error"]
    broken = done["error"].notna() if "error" in done else pd.Series(False, index=done.index)
    table = done[~broken].drop(columns="error", errors="ignore").reset_index(drop=True)
    return Grid(table, done[broken].reindex(columns=columns).reset_index(drop=True))


def _run_all(tasks: dict[str, Any], jobs: int, on_row: Callable[[], object]) -> list[dict[str, Any]]:
    """Return the rows of all cells, even if worker processes are lost.

    A cell returns its errors as a row, so an exception here means that a worker was lost (killed, or out of memory),
    but not in which cell. The remaining cells are run together once more and then one by one, which identifies the cell
    and protects the others.
    """
    import joblib

    rows: dict[str, dict[str, Any]] = {}

    def take(names: list[str], processes: int) -> None:
        with _interrupts_blocked():
            found = joblib.Parallel(n_jobs=processes, return_as="generator_unordered")(tasks[name] for name in names)
        for row in found:
            rows[row["cell"]] = row
            on_row()

    for _ in range(2):
        try:
            take([name for name in tasks if name not in rows], jobs)
            return list(rows.values())
        except Exception as error:
            warnings.warn(f"a worker was lost ({describe_error(error)}); its cells are tried again.", stacklevel=3)
    for name in [name for name in tasks if name not in rows]:
        try:
            take([name], 2 if jobs > 0 else jobs)  # two, so that joblib starts a separate process
        except Exception as error:
            rows[name] = {"cell": name, "error": describe_error(error)}
            on_row()
    return list(rows.values())


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Block Ctrl-C; processes that are started inside the block inherit this, so only this process handles it."""
    if not hasattr(signal, "pthread_sigmask"):  # such as on Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _run_in_worker(parent: int | None, *task: Any) -> dict[str, Any]:
    """Run a cell in a process that ends with its parent; None as parent: a cluster worker, which continues."""
    if parent not in (None, os.getpid()):
        _watch(parent)
    return run_cell(*task)


@cache
def _watch(parent: int | None) -> None:
    def end_with_it() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=end_with_it, daemon=True).start()


@contextmanager
def _backend(scheduler: str | None) -> Iterator[None]:
    """Use joblib's own processes or the workers of a Dask cluster."""
    import joblib

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
                    f"scheduler = {shown(scheduler)}: no Dask scheduler responds there ({one_line(error)}); start one "
                    "with `dask scheduler` and workers with `dask worker ADDRESS --nworkers 4 --nthreads 1`."
                ) from None
            stack.enter_context(joblib.parallel_config(backend="dask"))
        yield
