"""`flowvae reproduce`."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from flowvae.cli.parse import one_of, parse
from flowvae.comparisons.published import RECIPES, Recipe, Row, read_results, reproduce
from flowvae.comparisons.published.recipe import MARKS
from flowvae.comparisons.published.row import WIDTH, format_row
from flowvae.core.errors import FlowvaeError

__all__ = ["Reproduce", "reproduce_command"]

RecipeName = Annotated[str, tyro.conf.arg(constructor_factory=one_of(lambda: ("NAME",)))]
DataPath = Annotated[Path | None, tyro.conf.arg(aliases=("--data.path", "--data.root"))]
Download = Annotated[bool, tyro.conf.arg(aliases=("--data.download",))]


@dataclass(frozen=True)
class Reproduce:
    """Train and measure the experiment of a published protocol, and write its row beside the published figures.

    The row records what a figure depends on: protocol, data, K, split, seeds, code, machine, hours. Figures of
    different protocols are not compared; the row then gives the reason. The same command resumes interrupted seeds.

        flowvae reproduce --list
        flowvae reproduce static-mnist-normal --data-path static_mnist.npz --jobs 2
        flowvae reproduce static-mnist-normal --data-path static_mnist.npz --epochs 2 --draws 10

    Args:
        name: name of a recipe; flowvae reproduce --list shows them.
        list: show the recipes, or the one that is named, with their recorded results.
        json: print JSON.
        out: directory of all recipes; the row is OUT/NAME/row.json and row.md, the runs are in OUT/cells.
        seeds: seeds of the runs; by default the recipe's.
        data_path: file or folder of the data; by default that of the data set.
        download: download missing data files, if the data set supports it.
        jobs: number of parallel processes.
        threads: number of threads of each training.
        epochs: upper limit of the epochs of a run, for a short trial; its row is marked and cannot be recorded.
        draws: K of the NLL; another number than the protocol's, the default, also makes it a trial.
        by: name of the person who runs it, for the row.
        record: append the row to the table of results of the project's checkout.
    """

    name: tyro.conf.Positional[RecipeName] = ""
    list: bool = False
    json: bool = False
    out: Path = Path("runs/published")
    seeds: tuple[int, ...] | None = None
    data_path: DataPath = None
    download: Download = False
    jobs: int = 1
    threads: int = 1
    epochs: int | None = None
    draws: int | None = None
    by: str = ""
    record: bool = False


def reproduce_command(words: Sequence[str]) -> int:
    """Reproduce a recipe, or list them."""
    args = parse(Reproduce, [*words], "reproduce")
    if args.name and args.name not in RECIPES:
        from flowvae.comparisons.published import recipe_of

        recipe_of(args.name)
    if args.list:
        chosen = {args.name: RECIPES[args.name]} if args.name else RECIPES
        results = [row for row in read_results() if row.recipe in chosen]
        print(_as_json(chosen, results) if args.json else format_list(chosen, results))
        return 0
    if not args.name:
        raise FlowvaeError("reproduce: name a recipe; flowvae reproduce --list shows them.")
    found = reproduce(
        args.name,
        args.out,
        seeds=args.seeds,
        path=args.data_path,
        download=args.download,
        epochs=args.epochs,
        draws=args.draws,
        jobs=args.jobs,
        threads=args.threads,
        by=args.by,
        record_row=args.record,
    )
    print(json.dumps(asdict(found.row), indent=2, ensure_ascii=False) if args.json else format_row(found.row))
    for seed, error in found.failed.items():
        print(f"failed: seed {seed}: {error}", file=sys.stderr)
    if args.record and not found.recorded:
        reason = "not every seed has finished" if found.failed else "the same figures are in it already"
        print(f"flowvae: not added to the table of results: {reason}.", file=sys.stderr)
    if not args.json:
        print(f"\n{found.directory}: row.json, row.md, experiment.yaml, figures/")
    return 1 if found.failed else 0


def format_list(recipes: Mapping[str, Recipe], results: Sequence[Row]) -> str:
    """Format recipes with their published figures and results, at most 100 columns wide, grouped by protocol."""
    by_protocol: dict[tuple[str, ...], list[Recipe]] = {}
    for recipe in recipes.values():
        by_protocol.setdefault((str(recipe.protocol), recipe.source, recipe.files), []).append(recipe)
    blocks = []
    for (protocol, source, files), members in by_protocol.items():
        lines = [text for part in (protocol, source, f"Needs {files}") for text in textwrap.wrap(f"{part}.", WIDTH)]
        for recipe in members:
            lines += ["", *_recipe_lines(recipe, [row for row in results if row.recipe == recipe.name])]
        blocks.append("\n".join(lines))
    marks = [f"{mark} {MARKS[mark]}" for mark in MARKS if mark and any(mark in block for block in blocks)]
    blocks.append("\n".join([*marks, "Figures of two protocols are never compared."]))
    return ("\n\n" + "-" * WIDTH + "\n").join(blocks)


def _recipe_lines(recipe: Recipe, results: Sequence[Row]) -> list[str]:
    published = "; ".join(f"{figure} {figure.model}" for figure in recipe.published)
    hours = "" if recipe.hours is None else f", {recipe.hours:g} hours a seed on two cores"
    lines = [f"  {recipe.name}"]
    entries = [recipe.title + hours, f"published {published}", *map(_result, results)]
    for text in entries:
        lines += textwrap.wrap(text, WIDTH, initial_indent="    ", subsequent_indent="      ")
    return lines


def _result(row: Row) -> str:
    """Format one result: figure, protocol, time and machine."""
    beside = f"; not comparable: {'; '.join(row.not_comparable)}" if row.not_comparable else ""
    by = f" by {row.by}" if row.by else ""
    length = f"{len(row.seeds)} seeds, {row.hours:.2g} hours{by}"
    return f"here {row.figure}, {row.how}{beside}; {length}, {row.date}, {'; '.join(row.machines)}"


def _as_json(recipes: Mapping[str, Recipe], results: Sequence[Row]) -> str:
    plain: list[dict[str, Any]] = [
        {
            **{name: value for name, value in asdict(recipe).items() if name != "protocol"},
            "protocol": str(recipe.protocol),
            "published": [{**asdict(figure), "meaning": MARKS[figure.mark]} for figure in recipe.published],
            "results": [asdict(row) for row in results if row.recipe == recipe.name],
        }
        for recipe in recipes.values()
    ]
    return json.dumps(plain, indent=2, ensure_ascii=False)
