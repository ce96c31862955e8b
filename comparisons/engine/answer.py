"""Answers to questions: plan, grid, tables, tests and files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flowvae.comparisons.engine.answer_files import delete_earlier, write_answer
from flowvae.comparisons.engine.grid import Grid, run_grid
from flowvae.comparisons.engine.plan import Plan, make_plan
from flowvae.comparisons.engine.presets import Preset
from flowvae.comparisons.engine.question import Question
from flowvae.comparisons.engine.statistics import describe, paired_differences
from flowvae.core.errors import FlowvaeError, check_int_value, nearest, shown
from flowvae.core.files import write_table
from flowvae.experiments.experiment import Experiment

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Answer", "answer"]


@dataclass(frozen=True)
class Answer:
    """The answer to a question.

    Args:
        directory: directory of its files.
        grid: finished and failed cells.
        differences: paired differences by measure, the primary one first.
        sentences: the primary differences in words, by the thresholds in `statistics`; a last one names the arms with
            an unreliable NLL, if there are any.
    """

    directory: Path
    grid: Grid
    differences: dict[str, pd.DataFrame]
    sentences: list[str]


def answer(
    question: str | Question,
    base: str | Experiment | None = None,
    preset: str | Preset = "minutes",
    out: str | Path = "comparisons-out",
    *,
    path: Path | None = None,
    arms: Sequence[str] | None = None,
    first_seed: int = 0,
    jobs: int = 1,
    scheduler: str | None = None,
    progress: bool = True,
) -> Answer:
    """Answer a question: run the missing cells of its grid, and write tables and figures.

        answer("capacity", Experiment(data=Arrays("mine.npy", likelihood="bernoulli")), out="answers")

    Args:
        question: a question, or its name.
        base: experiment shared by all arms, with its data: your own, or the name of a data set in `BASES`; None: the
            first data set that the question was designed for.
        preset: "seconds", "minutes", "hour", "cluster", or a `Preset` of your own.
        out: the runs are written to `out/cells`, the answer to `out/QUESTION-DATA-PRESET`, where it replaces an earlier
            one. For your own experiment, DATA ends with a hash of its settings.
        path: file of a named data set that is read from a file; None: its default location.
        arms: names of the arms to run, including the baseline; None: all. The choice does not change the experiment of
            an arm.
        first_seed: the lowest seed.
        jobs: number of parallel processes.
        scheduler: address of a Dask scheduler whose workers run the cells.
        progress: whether to show a progress bar.

    Raises:
        FlowvaeError: for unknown names, data that cannot be loaded or lack what the question needs, a measure that no
            cell has, and if every cell failed.
    """
    check_int_value("jobs", jobs)
    plan = make_plan(question, base, preset, out, path, first_seed, arms)
    with plan.locked():  # raises an error now, not after the last cell, if the directory cannot be written
        pass
    grid = run_grid(
        plan.arms,
        plan.seeds,
        plan.cells,
        jobs=jobs,
        scheduler=scheduler,
        draws=plan.preset.draws,
        measures=plan.question.measures,
        effort=plan.preset.effort,
        progress=progress,
    )
    with plan.locked():
        delete_earlier(plan.place)
        _tabulate(plan, grid)
        differences = _test(plan, grid.table)
        sentences = _failures(grid) + _conclude(plan.question, differences, grid.table)
        write_answer(plan, grid.table, differences, sentences)
    return Answer(plan.place, grid, differences, sentences)


def _tabulate(plan: Plan, grid: Grid) -> None:
    """Write the tables of finished and of failed cells."""
    write_table(plan.place / "failed.csv", grid.failed)
    if grid.table.empty:
        raise FlowvaeError(f"{plan.place}: every cell failed, the first with: {grid.failed['error'].iloc[0]}")
    write_table(plan.place / "table.csv", grid.table)


def _test(plan: Plan, table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Compute paired differences by measure, for pairs with two or more shared seeds."""
    question, differences = plan.question, {}
    for measure in (question.measure, *question.secondary):
        if measure not in table:
            raise FlowvaeError(
                f"{question.name}: no cell has the measure {shown(measure)}; {nearest(measure, map(str, table))} Add "
                "its measure to Question.measures; finished cells are kept."
            )
        seeds = {arm: set(runs["seed"]) for arm, runs in table.dropna(subset=measure).groupby("arm")}
        pairs = [
            (arm, against)
            for arm, against in question.contrasts(plan.arms)
            if len(seeds.get(arm, set()) & seeds.get(against, set())) >= 2
        ]
        if pairs:
            differences[measure] = paired_differences(table, pairs, measure)
    return differences


def _failures(grid: Grid) -> list[str]:
    """Describe failed cells, whose seeds are missing from the differences."""
    if grid.failed.empty:
        return []
    count, first = len(grid.failed), grid.failed.iloc[0]
    return [
        f"{count} of {count + len(grid.table)} runs failed, so their seeds are missing below; the first "
        f"({first['arm']}, seed {first['seed']}) with: {first['error']}"
    ]


def _conclude(question: Question, differences: Mapping[str, pd.DataFrame], table: pd.DataFrame) -> list[str]:
    """Describe the primary differences, with a caution about unreliable NLLs."""
    import pandas as pd

    primary = differences.get(question.measure, pd.DataFrame())
    sentences = [describe(row, question.unit, question.lower_is_better) for _, row in primary.iterrows()]
    trusted = table.groupby("arm", sort=False)["nll_trusted"].all()
    if trusted.all():
        return sentences
    arms, better = ", ".join(trusted.index[~trusted]), "compare nll_ais" if "nll_ais" in table else "compare the ELBO"
    caution = f"nll by draws of the guide is not to be trusted (k̂, effective draws) for {arms}: {better}."
    return [*sentences, caution]
