"""Answering a question: its grid, its paired differences, and the files from which a report is made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import Any

import pandas as pd
from matplotlib.image import imsave

from flowvae.comparisons.engine.grid import Grid, run_grid
from flowvae.comparisons.engine.names import check_name
from flowvae.comparisons.engine.plots import plot_differences
from flowvae.comparisons.engine.question import Preset, Question, preset_of
from flowvae.comparisons.engine.statistics import LEVEL, MARGIN, describe, paired_differences, summarize
from flowvae.core.errors import FlowvaeError, check_int_value, nearest, shown
from flowvae.core.files import as_path, atomic_write, is_temporary, write_table
from flowvae.core.seeds import derive, seeded
from flowvae.data import Dataset
from flowvae.evaluation import image_grid, write_figure
from flowvae.experiments.directory import locked, make_directory
from flowvae.experiments.experiment import LARGEST_SEED, Experiment, load
from flowvae.experiments.run import Run

__all__ = ["Answer", "answer"]

REQUIRED = ("torch", "pyro-ppl", "zuko")  # whose versions can change a number
SAMPLES = 25  # in a picture, 5 a row


@dataclass(frozen=True)
class Answer:
    """What a question's runs say.

    Args:
        directory: where its files are.
        grid: finished and failed cells.
        differences: paired differences by measure, the primary one first.
        sentences: the primary differences in words, made from the thresholds in `statistics` alone; last, the arms
            whose NLL is not to be trusted.
    """

    directory: Path
    grid: Grid
    differences: dict[str, pd.DataFrame]
    sentences: list[str]


def answer(
    question: Question,
    data: str,
    preset: str | Preset,
    directory: str | Path,
    *,
    path: Path | None = None,
    first_seed: int = 0,
    jobs: int = 1,
    scheduler: str | None = None,
    progress: bool = True,
) -> Answer:
    """Run what is missing of a question's grid and write its tables and figure.

    Args:
        question: what is asked.
        data: name of a data set that it is asked on.
        preset: "seconds", "minutes", "hour", "cluster", or a `Preset` of your own.
        directory: the cells go to `directory/cells`, the answer to `directory/QUESTION-DATA-PRESET`, in place of an
            earlier one of that name.
        path: the file of a data set that is read from one; none: where its class looks for it.
        first_seed: the lowest seed.
        jobs: processes at a time.
        scheduler: address of a Dask scheduler, to run the cells on its workers.
        progress: whether to show a progress bar.

    Raises:
        FlowvaeError: for unknown data or presets, data that cannot be loaded, a measure that no cell has, or if so
            many cells failed that nothing can be compared.
    """
    directory = as_path(directory)
    check_int_value("jobs", jobs)
    check_int_value("first_seed", first_seed, least=0, most=LARGEST_SEED - preset_of(preset).seeds + 1)
    arms = question.experiments(data, preset, path)
    for name in (question.name, *arms):
        check_name("question or arm", name)  # its files are called by it
    settings = preset_of(preset)
    label = preset if isinstance(preset, str) else settings.label(max(arm.inference.epochs for arm in arms.values()))
    label += f"-from-seed-{first_seed}" if first_seed else ""
    seeds = range(first_seed, first_seed + settings.seeds)
    # one for all arms; and a file that is not there is found before the first cell and not in each of them
    loaded = next(iter(arms.values())).data.load(first_seed)
    place = directory / f"{question.name}-{data}-{label}"
    lock = directory / f".{place.name}.lock"
    make_directory(place)
    with locked(lock):  # what cannot be written is found before the first cell
        pass
    grid = run_grid(
        arms,
        seeds,
        directory / "cells",
        jobs=jobs,
        scheduler=scheduler,
        draws=settings.draws,
        measures=question.measures,
        effort=settings.effort,
        progress=progress,
    )
    with locked(lock):  # one of those who ask the same writes at a time
        return _write(place, question, arms, grid, loaded, seeds, settings, data, label)


def _write(
    place: Path,
    question: Question,
    arms: Mapping[str, Experiment],
    grid: Grid,
    loaded: Dataset,
    seeds: range,
    settings: Preset,
    data: str,
    label: str,
) -> Answer:
    """Write tables, figures and the answer itself, in place of an earlier one."""
    _delete_earlier(place)
    write_table(place / "failed.csv", grid.failed)
    if grid.table.empty:
        raise FlowvaeError(f"{place}: every cell failed; the first: {grid.failed['error'].iloc[0]}")
    write_table(place / "table.csv", grid.table)
    differences = _differences(question, arms, grid.table)
    for measure, frame in differences.items():
        write_table(place / f"differences-{measure}.csv", frame)
    primary = differences.get(question.measure, pd.DataFrame())
    sentences = [describe(row, question.unit, question.lower_is_better) for _, row in primary.iterrows()]
    sentences += _cautions(grid.table)
    protocol: dict[str, Any] = {
        "question": question.name,
        "asks": question.asks,
        "predicts": question.predicts,
        "data": data,
        "preset": label,
        "seeds": list(seeds),
        "draws": settings.draws,
        "effort": settings.effort.as_dict(),
        "measure": question.measure,
        "secondary": list(question.secondary),
        "unit": question.unit,
        "lower_is_better": question.lower_is_better,
        "split": "validation" if loaded.test is loaded.valid else "test",
        "identity": loaded.identity.as_dict(),
        "level": LEVEL,
        "margin": MARGIN,
        "sentences": sentences,
        "arms": {name: experiment.to_dict() for name, experiment in arms.items()},
        "flowvae": version("flowvae"),
        "versions": {"Python": python_version(), **{name: version(name) for name in REQUIRED}},
    }
    if len(primary):
        figure = plot_differences(grid.table, primary, question, protocol["split"])
        write_figure(figure, place / "differences.png")
    first = grid.table[grid.table["seed"] == seeds[0]]
    runs = {row["arm"]: load(place.parent / "cells" / row["cell"]) for _, row in first.iterrows()}
    figures = question.draw(runs, grid.table) if question.draw else {}
    for name, figure in figures.items():
        write_figure(figure, place / f"{name}.png")
    protocol["figures"] = list(figures)
    _write_samples(place / "samples", runs)
    means = summarize(grid.table, (question.measure, *question.secondary))
    with atomic_write(place / "answer.md") as temporary:
        temporary.write_text(_markdown(protocol, means, differences), encoding="utf-8")
    with atomic_write(place / "answer.json") as temporary:  # last: it says that the others are there
        temporary.write_text(json.dumps(protocol, indent=2) + "\n")
    return Answer(place, grid, differences, sentences)


def _delete_earlier(place: Path) -> None:
    """Delete the files of an earlier answer, and nothing that it has not written; answer.json, which names them, last.

    The names in it are taken as names: one that is a path to elsewhere is left alone.
    """
    try:
        earlier = json.loads((place / "answer.json").read_text(encoding="utf-8"))
        figures = [str(name) for name in earlier.get("figures", [])]
        samples = ["data", *map(str, earlier["arms"])]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        figures, samples = [], []
    names = [*(f"{name}.png" for name in figures), "failed.csv", "table.csv", "answer.md", "answer.json"]
    files = [*place.glob("differences*.csv"), *place.glob("differences*.png")]
    files += [place / "samples" / f"{name}.png" for name in samples if Path(name).name == name]
    files += [place / name for name in names if Path(name).name == name]
    files = [*(path for path in place.rglob(".*.tmp") if is_temporary(path)), *files]  # of one that was killed
    for file in files:
        file.unlink(missing_ok=True)


def _cautions(table: pd.DataFrame) -> list[str]:
    """Which arms have an NLL that rests on importance weights that cannot be trusted, in one sentence; or none."""
    trusted = table.groupby("arm", sort=False)["nll_trusted"].all()
    if trusted.all():
        return []
    arms, better = ", ".join(trusted.index[~trusted]), "compare nll_ais" if "nll_ais" in table else "compare the ELBO"
    return [f"nll by draws of the guide is not to be trusted (k̂, effective draws) for {arms}: {better}."]


def _differences(question: Question, arms: Mapping[str, Experiment], table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Paired differences by measure, of the pairs that share two seeds or more."""
    differences = {}
    for measure in (question.measure, *question.secondary):
        if measure not in table:
            raise FlowvaeError(
                f"{question.name}: no cell has the measure {shown(measure)}; {nearest(measure, map(str, table))} The "
                "measures that a cell takes are named by Question.measures; what is done is kept."
            )
        known = {arm: set(runs["seed"]) for arm, runs in table.dropna(subset=measure).groupby("arm")}
        pairs = [
            (arm, against)
            for arm, against in question.contrasts(arms)
            if len(known.get(arm, set()) & known.get(against, set())) >= 2
        ]
        if pairs:
            differences[measure] = paired_differences(table, pairs, measure)
    return differences


def _markdown(protocol: dict[str, Any], means: pd.DataFrame, differences: Mapping[str, pd.DataFrame]) -> str:
    """The answer as a page of Markdown, for a note or an issue."""
    parts = [
        f"# {protocol['asks']}",
        f"{protocol['question']} on {protocol['data']}, preset {protocol['preset']}, seeds "
        f"{', '.join(map(str, protocol['seeds']))}, NLL by K = {protocol['draws']} draws of the guide, flowvae "
        f"{protocol['flowvae']} ({', '.join(f'{name} {number}' for name, number in protocol['versions'].items())}). "
        f"Primary measure: {protocol['measure']}, {protocol['unit']}.",
        "Data of the first seed: preprocessing "
        f"{protocol['identity']['preprocessing']}; {protocol['identity']['split']}. "
        f"Measured on the {protocol['split']} data.",
        "\n".join(f"- {sentence}" for sentence in protocol["sentences"]),
        "Mean ± standard error over seeds:",
        means.to_markdown(index=False, disable_numparse=True),
    ]
    for measure, frame in differences.items():
        parts += [f"{measure}, paired over seeds:", frame.to_markdown(index=False, floatfmt=".3g")]
    return "\n\n".join(parts) + "\n"


def _write_samples(directory: Path, runs: Mapping[str, Run]) -> None:
    """Pictures of test data and of E[x | z] for each arm's draws of z, all from the same random numbers."""
    if not runs or next(iter(runs.values())).data.image_shape is None:
        return
    directory.mkdir(exist_ok=True)
    data = next(iter(runs.values())).data
    images = {"data": data.test[:SAMPLES]}
    for name, run in runs.items():
        with seeded(derive(run.experiment.seed, "samples")):
            images[name] = run.pair.model.generate(SAMPLES)[1].cpu()
    for name, values in images.items():
        with atomic_write(directory / f"{name}.png") as temporary:
            imsave(temporary, image_grid(values, data, row=5), cmap="gray_r", vmin=0, vmax=1, format="png")
