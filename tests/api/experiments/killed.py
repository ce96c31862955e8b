"""Kill a command before each of its changes to the file system, and see how the next command gets on.

Between two changes nothing on disk is different, so a kill before change n + 1 is a kill after change n. Changes are
seen by an audit hook of the interpreter, which hears of every one before it is made, whoever makes it; the process then
ends as by SIGKILL: no `finally` runs, nothing is flushed.

    python killed.py FOLDER [POINTS]

POINTS is how many points of each scenario are tried, drawn by a fixed seed; none: all of them.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import traceback
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flowvae import Arrays, Experiment, Mixture, Training, load
from flowvae.comparisons import Preset, Question, answer
from flowvae.comparisons.engine.grid import cell_name, run_grid
from flowvae.experiments.run import Run
from flowvae.experiments.stages import SecondStage
from flowvae.experiments.train import fit_prior
from flowvae.models import BernoulliLikelihood
from flowvae.networks import MLP

KILLED = 137
CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.truncate", "os.link", "os.symlink"}
HOW: dict[str, Any] = {"draws": 5, "figures": False, "progress": False}

Command = Callable[[Path], object]


def measured(run: Run) -> list[str]:
    """All figures of a run, and of the runs inside it, with every digit."""
    found = sorted(f"{m.name} {m.value!r} {m.se!r}" for m in run.metrics)
    assert len(run.whole_history) >= 2
    for inside in sorted(run.directory.glob("*/experiment.yaml")):
        found += measured(load(inside.parent))
    return found


def can_be_read(directory: Path) -> None:
    """Open what a killed command has left, where it is a run; its measures are then those of its weights."""
    if (directory / "experiment.yaml").is_file() and (directory / "checkpoint.safetensors").is_file():
        load(directory)


def child(command: Callable[[], object], root: Path, kill_at: int = -1) -> tuple[int, Any]:
    """Run a command in a process of its own, and kill it before its change number `kill_at` below the root.

    Returns:
        Its exit status, and what it returned with the number of its changes.
    """
    out = root.with_name("returned.json")
    out.unlink(missing_ok=True)
    process = os.fork()
    if process == 0:
        changes = 0

        def hear(event: str, args: tuple[Any, ...]) -> None:
            nonlocal changes
            if event == "open":
                wrote = isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            else:
                wrote = event in CHANGES
            if wrote and isinstance(args[0], str | bytes | Path) and os.fsdecode(args[0]).startswith(str(root)):
                if changes == kill_at:
                    os._exit(KILLED)
                changes += 1

        try:
            sys.addaudithook(hear)
            returned = command()
            out.write_text(json.dumps([changes, returned]))
            os._exit(0)
        except BaseException:
            out.write_text(json.dumps([changes, traceback.format_exc()]))
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    return status, json.loads(out.read_text()) if out.exists() else None


def scenarios(folder: Path) -> dict[str, tuple[Command, Command, Command]]:
    """By name: what is there before, the command that is killed, and the next command; the last two return figures."""
    np.savez(folder / "mine.npz", train=np.random.default_rng(0).integers(0, 2, (60, 5)))
    quick = Training(epochs=2, device="cpu", checkpoint_seconds=0.0)
    one = Experiment(
        latent=2,
        encoder=MLP((4,)),
        decoder=MLP((4,)),
        inference=quick,
        data=Arrays(folder / "mine.npz", BernoulliLikelihood()),
    )
    other = replace(one, seed=1)
    two = replace(one, second_stage=SecondStage(Mixture(2), quick, fine_tune=True))
    stage = SecondStage(Mixture(2), quick)
    longer = replace(quick, epochs=4)
    fitted = replace(one, second_stage=stage)
    other.run(folder / "other", **HOW)
    (folder / "other" / "figures").mkdir()
    for file in ("samples.png", "error.txt", "figures/latent.png", ".metrics.json.0123456789abcdef.tmp"):
        (folder / "other" / file).touch()
    one.run(folder / "one", **HOW)
    two.run(folder / "two", **HOW)
    fitted.run(folder / "fitted", **HOW)

    def copied(name: str, *but: str) -> Command:
        def prepare(place: Path) -> None:
            shutil.copytree(folder / name, place / "run")
            for file in but:
                (place / "run" / file).unlink()

        return prepare

    def start(experiment: Experiment, **how: Any) -> Command:
        return lambda place: measured(experiment.run(place / "run", **how, **HOW))

    def go_on(experiment: Experiment, **how: Any) -> Command:
        """The same command again; with --resume, where there is a run of the experiment."""

        def command(place: Path) -> object:
            file = place / "run" / "experiment.yaml"
            ours = file.is_file() and Experiment.from_yaml(file) == experiment
            return measured(experiment.run(place / "run", **({"resume": True} if ours else how), **HOW))

        return command

    def fit(place: Path) -> object:
        return measured(fit_prior(folder / "one", stage, place / "run", **HOW))

    def go_on_fitting(place: Path) -> object:
        file = place / "run" / "experiment.yaml"
        if not file.is_file():
            return fit(place)
        return measured(Experiment.from_yaml(file).run(file.parent, resume=True, **HOW))

    def evaluate(place: Path) -> object:
        load(place / "run").evaluate(measures=["activity", "mmd"], progress=False)
        return measured(load(place / "run"))

    def grid(place: Path) -> object:
        found = run_grid({"one": one, "two": two}, range(1), place / "cells", draws=5, progress=False)
        return found.table.drop(columns=["seconds", "seconds_per_epoch"]).to_csv() + "".join(found.failed["error"])

    def damaged(place: Path) -> None:
        (place / "cells").mkdir(parents=True)
        cell = place / "cells" / cell_name(one)
        shutil.copytree(folder / "one", cell)
        (cell / "metrics.json").write_text("[]")
        shutil.copytree(folder / "two", place / "cells" / cell_name(two))

    question = Question(
        "coins",
        "Does a mixture help?",
        lambda base, data: {"one": base, "mixture": replace(base, prior=Mixture(2))},
        "one",
    )

    def ask(place: Path) -> object:
        found = answer(question, one, Preset(seeds=2, epochs=2, draws=5), place / "answers", progress=False)
        files = sorted(str(file.relative_to(place)) for file in found.directory.rglob("*") if file.is_file())
        return [files, (found.directory / "table.csv").read_text(), (found.directory / "answer.json").read_text()]

    ask(folder)

    def asked(place: Path) -> None:
        shutil.copytree(folder / "answers", place / "answers")

    def nothing(place: Path) -> None:
        pass

    unfinished = ("history.csv", "metrics.json")
    replaced = start(one, overwrite=True)
    extended = start(replace(one, inference=longer), resume=True)
    fitted_on = start(replace(fitted, second_stage=replace(stage, inference=longer)), resume=True)
    return {
        "start": (nothing, start(one), go_on(one)),
        "overwrite": (copied("other"), replaced, replaced),
        "overwrite, then resume": (copied("other"), replaced, go_on(one, overwrite=True)),
        "overwrite three stages": (copied("two"), replaced, replaced),
        "resume": (copied("one", *unfinished), start(one, resume=True), go_on(one)),
        "resume without checkpoint": (copied("one", "checkpoint.safetensors"), start(one, resume=True), go_on(one)),
        "extend": (copied("one"), extended, extended),
        "extend a second stage": (copied("fitted"), fitted_on, fitted_on),
        "three stages": (nothing, start(two), go_on(two)),
        "fit-prior": (nothing, fit, go_on_fitting),
        "evaluate": (copied("one"), evaluate, evaluate),
        "compare": (nothing, grid, grid),
        "compare, damaged": (damaged, grid, grid),
        "compare again": (asked, ask, ask),
    }


def sweep(folder: Path, name: str, scenario: tuple[Command, Command, Command], points: int | None) -> dict[str, Any]:
    """Kill the command at every point, or at some, and run the next command; what came out otherwise is told."""
    before, command, following = scenario
    place = folder / "place"

    def fresh() -> Path:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        before(place)
        return place

    fresh()
    status, (changes, expected) = child(lambda: command(place), place)
    assert status == 0, expected
    tried = list(range(changes))
    if points is not None:
        tried = sorted(random.Random(name).sample(tried, min(points, changes)))
    failures = []
    for point in tried:
        fresh()
        status, _ = child(lambda: command(place), place, point)
        opens, why = child(lambda: can_be_read(place / "run"), place)
        left = sorted(str(path.relative_to(place)) for path in place.rglob("*") if path.is_file())
        again, returned = child(lambda: following(place), place)
        leftovers = [*place.glob("run/.*.tmp"), *place.glob("cells/*/.*.tmp")]
        if status != KILLED or opens != 0 or again != 0 or returned[1] != expected or leftovers:
            found = {"point": point, "status": status, "left": left, "opens": why, "then": returned}
            failures.append({**found, "tmp": len(leftovers)})
    return {"points": changes, "tried": len(tried), "failures": failures}


def together(*commands: Callable[[], object]) -> list[Any]:
    """What commands return, or how they end, that run at the same time in a process each."""
    processes = []
    for command in commands:
        read, write = os.pipe()
        process = os.fork()
        if process == 0:
            try:
                returned = command()
            except Exception as error:
                returned = f"{type(error).__name__}: {error}"
            with os.fdopen(write, "w") as pipe:
                json.dump(returned, pipe)
            os._exit(0)
        os.close(write)
        processes.append((process, read))
    found = []
    for process, read in processes:
        with os.fdopen(read) as pipe:
            found.append(json.load(pipe))
        os.waitpid(process, 0)
    return found


def contests(folder: Path, commands: dict[str, tuple[Command, Command, Command]]) -> dict[str, Any]:
    """Commands that write to one directory at the same time: what each says, and what it says alone."""
    grid = commands["compare"][1]
    found: dict[str, Any] = {}
    one = load(folder / "one")
    for name, before, how in (("train", None, {}), ("overwrite", "other", {"overwrite": True})):
        place = folder / name
        place.mkdir()
        if before:
            shutil.copytree(folder / before, place / "run")

        def run(place: Path = place, how: dict[str, Any] = how) -> str:
            one.experiment.run(place / "run", **how, **HOW)
            return "ended"

        found[name] = [*together(run, run, run), measured(load(place / "run")), measured(one)]
    place = folder / "evaluate"
    shutil.copytree(folder / "one", place / "run")
    names = ("activity", "mmd", "surgery", "iwae")

    def evaluate(measure: str) -> None:
        load(place / "run").evaluate(measures=[measure], draws=5, progress=False)

    for _ in range(5):
        together(*[partial(evaluate, name) for name in names])
        found.setdefault("evaluate", []).append(sorted(load(place / "run").measured))
        (place / "run" / "metrics.json").unlink()
    found["grid"] = together(lambda: grid(folder / "grids"), lambda: grid(folder / "grids"))
    found["grid"] += together(lambda: grid(folder / "alone"))
    return found


def main(folder: Path, points: int | None) -> None:
    """Print as JSON how many points each scenario has, how many were tried and which failed; and the contests."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    found = scenarios(folder)
    told: dict[str, Any] = {name: sweep(folder, name, scenario, points) for name, scenario in found.items()}
    print(json.dumps({"killed": told, "contests": contests(folder, found)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None)
