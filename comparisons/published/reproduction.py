"""Reproduction: train the experiment of a recipe over seeds, measure it, and write its row."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flowvae.comparisons.engine.cell import cell_name
from flowvae.comparisons.engine.grid import run_grid
from flowvae.comparisons.engine.presets import Preset, at_preset
from flowvae.comparisons.published.provenance import Provenance
from flowvae.comparisons.published.recipe import Recipe, recipe_of
from flowvae.comparisons.published.results import check_recordable, record
from flowvae.comparisons.published.row import Row, format_row, make_row
from flowvae.core.errors import FlowvaeError, check_int_value, one_line, shown
from flowvae.core.files import as_path, atomic_write
from flowvae.data import Dataset, DataSpec
from flowvae.evaluation import draw_figures
from flowvae.experiments.directory import locked, make_directory
from flowvae.experiments.experiment import LARGEST_SEED, Experiment
from flowvae.experiments.reading import is_finished
from flowvae.experiments.run import Run, load

__all__ = ["Reproduction", "reproduce"]

OUT = "runs/published"
LONGEST = 100  # characters of a name


@dataclass(frozen=True)
class Reproduction:
    """The result of `reproduce`.

    Args:
        row: row of the finished seeds.
        directory: directory of its files.
        failed: errors by seed.
        recorded: whether the row was appended to the table of results.
    """

    row: Row
    directory: Path
    failed: dict[int, str]
    recorded: bool = False


def reproduce(
    recipe: str | Recipe,
    out: str | Path = OUT,
    *,
    seeds: Sequence[int] | None = None,
    path: str | Path | None = None,
    epochs: int | None = None,
    draws: int | None = None,
    jobs: int = 1,
    threads: int = 1,
    by: str = "",
    record_row: bool = False,
    progress: bool = True,
    download: bool = False,
) -> Reproduction:
    """Train and measure the experiment of a recipe, and write its row with the published figures.

    Finished seeds are kept and interrupted ones are resumed, so the same call completes an earlier one. It writes
    `out/NAME/row.json`, `row.md`, `experiment.yaml` and the figures of the first finished seed; the runs are in
    `out/cells`.

    Args:
        recipe: a recipe, or its name.
        out: directory of all recipes.
        seeds: seeds of the runs; None: the recipe's.
        path: file or folder of the data; None: the default of the data set.
        epochs: upper limit of the epochs of a run, for a short trial; its row is marked and cannot be recorded.
        draws: K of the NLL; another number than the protocol's, the default, also makes it a trial.
        jobs: number of parallel processes.
        threads: number of threads of each training.
        by: name of the person who runs it, for the row.
        record_row: whether to append the row to the committed table of results.
        progress: whether to show progress bars.
        download: whether to download missing data files, if the data set supports it.

    Raises:
        FlowvaeError: for unknown names and parts, missing data, seeds that are invalid or repeated, and a trial that is
            to be recorded, all before any training; and if every seed failed.
    """
    recipe, out = recipe_of(recipe), as_path(out)
    numbers = _checked_seeds(recipe.seeds if seeds is None else seeds)
    for name, value in (("jobs", jobs), ("threads", threads), ("epochs", epochs), ("draws", draws)):
        if value is not None:
            check_int_value(name, value)
    if not isinstance(by, str) or len(by) > LONGEST or not (by + "x").isprintable():
        raise FlowvaeError(f"by = {shown(by)}: must be a name of at most {LONGEST} characters.")
    trial = _why_a_trial(recipe, epochs, draws)
    if record_row:
        if trial:
            raise FlowvaeError(f"--record with a trial ({trial}): is not a result; leave --epochs and --draws out.")
        check_recordable()
    experiment = recipe.build(path)
    if epochs is not None:
        experiment = at_preset(experiment, Preset(2, epochs, recipe.protocol.draws))
    data = _load(recipe, experiment.data, numbers[0], download)
    experiment.build(data)  # raises an error for parts that do not fit, before the first cell
    place, cells = out / (f"{recipe.name}-trial" if trial else recipe.name), out / "cells"
    make_directory(place)
    experiment.to_yaml(place / "experiment.yaml")
    _note_sessions(place, cells, experiment, numbers, threads)
    grid = run_grid(
        {recipe.name: experiment},
        numbers,
        cells,
        jobs=jobs,
        threads=threads,
        draws=draws or recipe.protocol.draws,
        progress=progress,
        cell_progress=progress and jobs == 1,
    )
    failed = dict(zip(grid.failed["seed"].tolist(), grid.failed["error"].tolist(), strict=True))
    runs = {
        seed: load(cells / cell, experiment.data)
        for seed, cell in zip(grid.table.get("seed", ()), grid.table.get("cell", ()), strict=True)
    }
    if not runs:
        raise FlowvaeError(f"{recipe.name}: every seed failed, the first with: {one_line(next(iter(failed.values())))}")
    row = make_row(
        recipe,
        runs,
        on_valid=data.test is data.valid,
        provenance=_provenance(place, cells, experiment, runs),
        command=_command(recipe, numbers, path, epochs, draws, threads),
        trial=trial,
        by=by,
        date=datetime.now(UTC).date().isoformat(),
    )
    _write(place, row)
    recorded = record_row and not failed and record(row)
    _draw(place, next(iter(runs.values())), progress)
    return Reproduction(row, place, failed, recorded)


def _checked_seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    for seed in seeds:
        check_int_value("seed", seed, least=0, most=LARGEST_SEED)
    if not seeds or len(set(seeds)) < len(seeds):
        raise FlowvaeError(f"seeds = {shown(tuple(seeds))}: must be one or more seeds without repetition.")
    return tuple(int(seed) for seed in seeds)


def _why_a_trial(recipe: Recipe, epochs: int | None, draws: int | None) -> str:
    """Return the reasons why the row is only a trial; empty if it is a result."""
    own = recipe.protocol.draws
    reasons = [f"{epochs} epochs at most"] if epochs is not None else []
    reasons += [f"K = {draws} in place of {own}"] if draws not in (None, own) else []
    return ", ".join(reasons)


def _load(recipe: Recipe, spec: DataSpec, seed: int, download: bool) -> Dataset:
    if download:
        if not hasattr(spec, "download"):
            raise FlowvaeError(f"download = True: {spec.family} cannot be downloaded; leave it out.")
        spec = replace(spec, download=True)  # type: ignore[type-var]
    try:
        return spec.load(seed)
    except FlowvaeError as error:
        raise FlowvaeError(f"{str(error).rstrip('.')}. {recipe.name} needs {recipe.files}.") from None


def _sessions(place: Path) -> dict[str, list[dict[str, Any]]]:
    """Read the provenances of the trainings of each cell, by the name of the cell."""
    try:
        found = json.loads((place / "sessions.json").read_text(encoding="utf-8"))
        return {cell: [Provenance(**one).as_dict() for one in every] for cell, every in found.items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}  # the row then says "not known"


def _note_sessions(place: Path, cells: Path, experiment: Experiment, seeds: Sequence[int], threads: int) -> None:
    """Record the provenance of this process for unfinished cells, since a row may be written by another process."""
    here = Provenance.here(experiment.last_training.device, threads).as_dict()
    with locked(place.with_name(f".{place.name}.lock")):
        sessions = _sessions(place)
        for seed in seeds:
            name = cell_name(replace(experiment, seed=seed))
            if not is_finished(cells / name) and here not in sessions.setdefault(name, []):
                sessions[name].append(here)
        with atomic_write(place / "sessions.json") as temporary:
            temporary.write_text(json.dumps(sessions, indent=2) + "\n", encoding="utf-8")


def _provenance(place: Path, cells: Path, experiment: Experiment, seeds: Sequence[int] | Any) -> list[Provenance]:
    sessions = _sessions(place)
    names = [cell_name(replace(experiment, seed=seed)) for seed in seeds]
    return [Provenance(**one) for name in names for one in sessions.get(name, [])]


def _command(
    recipe: Recipe,
    seeds: Sequence[int],
    path: str | Path | None,
    epochs: int | None,
    draws: int | None,
    threads: int,
) -> str:
    """Return the command that repeats it, without paths of this machine."""
    words = ["flowvae reproduce", recipe.name, "--seeds", *map(str, seeds)]
    words += ["--data-path PATH"] if path is not None else []
    words += [f"--epochs {epochs}"] if epochs is not None else []
    words += [f"--draws {draws}"] if draws is not None else []
    words += [f"--threads {threads}"] if threads != 1 else []
    return " ".join(words)


def _draw(place: Path, run: Run, progress: bool) -> None:
    """Draw loss curve, samples and reconstructions of a run."""
    draw_figures(*run.pair, run.data, run.whole_history, place / "figures", run.experiment.seed, progress)


def _write(place: Path, row: Row) -> None:
    """Write the row as JSON and as text."""
    text = json.dumps(asdict(row), indent=2, ensure_ascii=False, allow_nan=False)
    for name, content in (("row.json", text), ("row.md", f"```text\n{format_row(row)}\n```")):
        with atomic_write(place / name) as temporary:
            temporary.write_text(content + "\n", encoding="utf-8")
