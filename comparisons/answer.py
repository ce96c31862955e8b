"""Answering a question: its grid, its paired differences, and the files from which a report is made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.image import imsave

from flowvae.comparisons.grid import Grid, run_grid
from flowvae.comparisons.question import Preset, Question, preset_of
from flowvae.comparisons.statistics import LEVEL, MARGIN, describe, paired_differences, summarize
from flowvae.errors import FlowvaeError, nearest
from flowvae.evaluation import image_grid, write_figure
from flowvae.experiment import load
from flowvae.inference import atomic_write
from flowvae.run import Run
from flowvae.seeds import derive, seeded

__all__ = ["Answer", "answer", "plot_differences"]

SAMPLES = 25  # in a picture, 5 a row


@dataclass(frozen=True)
class Answer:
    """What a question's runs say.

    Args:
        directory: where its files are.
        grid: finished and failed cells.
        differences: paired differences by measure, the primary one first.
        sentences: the primary differences in words, made from the thresholds in `statistics` alone.
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
    directory = Path(directory)
    arms = question.experiments(data, preset, path)
    settings = preset_of(preset)
    label = (preset if isinstance(preset, str) else preset.label) + (f"-from-seed-{first_seed}" if first_seed else "")
    seeds = range(first_seed, first_seed + settings.seeds)
    # one for all arms; and a file that is not there is found before the first cell and not in each of them
    identity = next(iter(arms.values())).data.load(first_seed).identity
    grid = run_grid(
        arms,
        seeds,
        directory / "cells",
        jobs=jobs,
        scheduler=scheduler,
        draws=settings.draws,
        measures=question.measures,
        progress=progress,
    )
    place = directory / f"{question.name}-{data}-{label}"
    place.mkdir(exist_ok=True)
    for pattern in ("differences-*.csv", "*.png", "samples/*.png"):  # nothing of an earlier answer beside this one
        for file in place.glob(pattern):
            file.unlink()
    _write_table(place / "failed.csv", grid.failed)
    if grid.table.empty:
        raise FlowvaeError(f"{place}: every cell failed; the first: {grid.failed['error'].iloc[0]}")
    _write_table(place / "table.csv", grid.table)
    measures = (question.measure, *question.secondary)
    for measure in measures:
        if measure not in grid.table:
            raise FlowvaeError(
                f"{question.name}: no cell has the measure {measure!r}; {nearest(measure, map(str, grid.table))} The "
                "measures that a cell takes are named by Question.measures; what is done is kept."
            )
    differences = {}
    for measure in measures:
        known = {arm: set(runs["seed"]) for arm, runs in grid.table.dropna(subset=measure).groupby("arm")}
        pairs = [
            (arm, against)
            for arm, against in question.contrasts(arms)
            if len(known.get(arm, set()) & known.get(against, set())) >= 2
        ]
        if pairs:
            differences[measure] = paired_differences(grid.table, pairs, measure)
            _write_table(place / f"differences-{measure}.csv", differences[measure])
    sentences = []
    if question.measure in differences:
        primary = differences[question.measure]
        sentences = [describe(row, question.unit, question.lower_is_better) for _, row in primary.iterrows()]
        write_figure(plot_differences(grid.table, primary, question), place / "differences.png")
    first = grid.table[grid.table["seed"] == first_seed]
    runs = {row["arm"]: load(directory / "cells" / row["cell"]) for _, row in first.iterrows()}
    for name, figure in (question.draw(runs, grid.table) if question.draw else {}).items():
        write_figure(figure, place / f"{name}.png")
    _write_samples(place / "samples", runs)
    protocol: dict[str, Any] = {
        "question": question.name,
        "asks": question.asks,
        "predicts": question.predicts,
        "data": data,
        "preset": label,
        "seeds": list(seeds),
        "draws": settings.draws,
        "measure": question.measure,
        "secondary": list(question.secondary),
        "unit": question.unit,
        "lower_is_better": question.lower_is_better,
        "split": "test",
        "identity": identity.as_dict(),
        "level": LEVEL,
        "margin": MARGIN,
        "sentences": sentences,
        "arms": {name: experiment.to_dict() for name, experiment in arms.items()},
        "flowvae": version("flowvae"),
    }
    with atomic_write(place / "answer.json") as temporary:
        temporary.write_text(json.dumps(protocol, indent=2) + "\n")
    with atomic_write(place / "answer.md") as temporary:
        temporary.write_text(_markdown(protocol, summarize(grid.table, measures), differences))
    return Answer(place, grid, differences, sentences)


def plot_differences(table: pd.DataFrame, differences: pd.DataFrame, question: Question) -> Figure:
    """Every pair's mean difference with its 95 % t interval, and every seed as a dot.

    Args:
        table: one row a run.
        differences: of the primary measure.
        question: whose they are.
    """
    count = len(differences)
    figure = Figure(figsize=(8, 1.4 + 0.32 * count), layout="constrained")
    ax = figure.add_subplot()
    values = table.pivot(index="seed", columns="arm", values=question.measure)
    for place, (_, row) in enumerate(differences.iterrows()):
        found = row["p_holm"] < LEVEL
        seeds = (values[row["arm"]] - values[row["against"]]).dropna()
        ax.plot(seeds, [place] * len(seeds), "o", color="#9a9a9a", markersize=4, markeredgewidth=0, zorder=1)
        ax.plot((row["low"], row["high"]), (place, place), color="#1f4e79", linewidth=2, zorder=2)
        face = "#1f4e79" if found else "white"
        ax.plot(row["difference"], place, "s", color="#1f4e79", markerfacecolor=face, markersize=7, zorder=3)
    ax.axvline(0, color="black", linewidth=0.8)
    labels = [f"{row['arm']} − {row['against']}" for _, row in differences.iterrows()]
    ax.set_yticks(range(count), labels)
    ax.invert_yaxis()
    better = "negative" if question.lower_is_better else "positive"
    # one seed that went astray must not squeeze all the others, but every mean is shown; an arrow says what is cut
    ends = differences[["low", "high"]].abs().fillna(0)  # a pair that could not be compared has none
    reach = 1.3 * max(*ends.quantile(0.9), differences["difference"].abs().max(), MARGIN)
    reach = max(reach, 1.05 * ends[ends < 2 * reach].max().max())
    left, right = max(-reach, ax.get_xlim()[0]), min(reach, ax.get_xlim()[1])
    ax.set_xlim(left, right)
    for place, (low, high) in enumerate(differences[["low", "high"]].to_numpy()):
        for cut, edge, marker in ((low < left, left, "<"), (high > right, right, ">")):
            if cut:
                ax.plot(edge, place, marker, color="#1f4e79", markersize=8, clip_on=False, zorder=4)
    ax.set_xlabel(f"difference in test {question.measure.upper()}, {question.unit} ({better}: better)")
    figure.suptitle(
        f"{question.asks}\nmean and 95 % t interval over {int(differences['seeds'].min())} seeds, "
        "grey: each seed, filled: p < 0.05 after Holm",
        fontsize=9,
        x=0.01,
        horizontalalignment="left",
    )
    return figure


def _markdown(protocol: dict[str, Any], means: pd.DataFrame, differences: Mapping[str, pd.DataFrame]) -> str:
    """The answer as a page of Markdown, for a note or an issue."""
    parts = [
        f"# {protocol['asks']}",
        f"{protocol['question']} on {protocol['data']}, preset {protocol['preset']}, seeds "
        f"{', '.join(map(str, protocol['seeds']))}, NLL by K = {protocol['draws']} draws of the guide, flowvae "
        f"{protocol['flowvae']}. Primary measure: {protocol['measure']}, {protocol['unit']}.",
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


def _write_table(path: Path, frame: pd.DataFrame) -> None:
    with atomic_write(path) as temporary:
        frame.to_csv(temporary, index=False)
