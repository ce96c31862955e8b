"""`flowvae compare` and `flowvae report`."""

from __future__ import annotations

import inspect
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from flowvae.cli.parse import one_of, parse
from flowvae.comparisons import BASES, QUESTIONS, answer, preset_of, question_of, summarize, write_report
from flowvae.core.errors import FlowvaeError, shown
from flowvae.experiments.experiment import Experiment

__all__ = ["Compare", "Report", "compare_command", "describe_compare", "report_command"]


QuestionName = Annotated[str, tyro.conf.arg(constructor_factory=one_of(lambda: QUESTIONS))]


@dataclass(frozen=True)
class Compare:
    """Answer a question: run its arms over seeds, compare them in pairs, write tables and a figure.

    Finished cells are not run again, so the same command resumes an interrupted comparison, and questions with the same
    --out share the runs that they have in common.

    Args:
        question: name of a question.
        out: directory of all cells and answers.
        config: an experiment.yaml with your own data, from which the question's arms are derived.
        data: name of a data set, in place of --config; by default the first that the question was designed for.
        path: file of the data set, if it is read from one, such as static-mnist; by default it is looked for in the
            working directory.
        arms: names of the arms to run, including the baseline; by default all.
        preset: seconds (writes every file), minutes (shows how it works), hour (on two cores) or cluster.
        seeds: number of seeds, in place of the preset's.
        epochs: upper limit of the epochs of a run, in place of the preset's.
        draws: draws per data point for the NLL, in place of the preset's.
        first_seed: the lowest seed.
        jobs: number of parallel processes, each with one thread.
        scheduler: address of a Dask scheduler whose workers run the cells, such as tcp://host:8786.
    """

    question: tyro.conf.Positional[QuestionName]
    out: Path = Path("comparisons-out")
    config: Path | None = None
    data: Annotated[str | None, tyro.conf.arg(metavar="|".join(BASES))] = None
    path: Path | None = None
    arms: tuple[str, ...] | None = None
    preset: str = "minutes"
    seeds: int | None = None
    epochs: int | None = None
    draws: int | None = None
    first_seed: int = 0
    jobs: int = 1
    scheduler: str | None = None


@dataclass(frozen=True)
class Report:
    """Write one HTML page with all comparisons in a directory.

    Args:
        directory: the directory given to `flowvae compare --out`.
    """

    directory: tyro.conf.Positional[Path]


def describe_compare() -> str:
    """Return the description of `flowvae compare`, with the first line of every registered question."""
    about = inspect.cleandoc(Compare.__doc__ or "").partition("\n\nArgs:")[0]
    return "\n\n".join([about, *(f"{name}: {question.asks}" for name, question in QUESTIONS.items())])


def compare_command(words: list[str]) -> int:
    """Answer a question."""
    args = parse(Compare, words, "compare", description=describe_compare())
    question = question_of(args.question)
    if args.config is not None and args.data is not None:
        raise FlowvaeError(f"--data {shown(args.data)} with --config: the file specifies the data; leave --data out.")
    own = {name: value for name in ("seeds", "epochs", "draws") if (value := getattr(args, name)) is not None}
    result = answer(
        question,
        Experiment.from_yaml(args.config) if args.config is not None else args.data,
        replace(preset_of(args.preset), **own) if own else args.preset,
        args.out,
        path=args.path,
        arms=args.arms,
        first_seed=args.first_seed,
        jobs=args.jobs,
        scheduler=args.scheduler,
    )
    means = summarize(result.grid.table, (question.measure, *question.secondary))
    print(f"{question.asks}\n\nMean ± standard error over seeds (nll, elbo and their parts: nats per data point):")
    print(means.to_string(index=False))
    table = result.grid.table
    print(f"\n{table['protocol'].iloc[0]}; seeds {', '.join(map(str, sorted(set(table['seed']))))}.")
    print(f"\n{question.measure.upper()}, paired over seeds:")
    for sentence in result.sentences:
        print(f"- {sentence}")
    for _, row in result.grid.failed.iterrows():
        print(f"failed: {row['arm']}, seed {row['seed']} ({row['cell']}): {row['error']}", file=sys.stderr)
    print(f"\n{result.directory}: table.csv, differences-*.csv, differences.png, answer.md, answer.json")
    return 1 if len(result.grid.failed) else 0


def report_command(words: list[str]) -> int:
    """Write the page of all comparisons."""
    args = parse(Report, words, "report")
    print(write_report(args.directory))
    return 0
