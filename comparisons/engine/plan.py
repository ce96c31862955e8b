"""Plans of answers: arms, seeds, data and directories, checked before the first cell."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from flowvae.comparisons.engine.bases import base_on
from flowvae.comparisons.engine.grid import cell_name
from flowvae.comparisons.engine.names import named
from flowvae.comparisons.engine.presets import Preset, preset_of
from flowvae.comparisons.engine.protocol import check_arms
from flowvae.comparisons.engine.question import Question, question_of
from flowvae.core.errors import FlowvaeError, check_int_value, shown, shown_path
from flowvae.core.files import as_path
from flowvae.data import Dataset
from flowvae.evaluation import check_measures
from flowvae.experiments.directory import locked, make_directory
from flowvae.experiments.experiment import LARGEST_SEED, Experiment

__all__ = ["Plan", "make_plan"]

LONGEST = 40  # characters of the name of a user's data in a file name


@dataclass(frozen=True)
class Plan:
    """The arms and seeds of a question on some data.

    Args:
        question: the question.
        arms: its arms by name.
        seeds: seeds of the runs of each arm.
        data: the data of the first seed.
        data_name: name of the data.
        preset: computational effort.
        preset_name: name of the preset, with the first seed if that is not 0.
        place: directory of the answer.
        cells: directory of the runs.
    """

    question: Question
    arms: dict[str, Experiment]
    seeds: range
    data: Dataset
    data_name: str
    preset: Preset
    preset_name: str
    place: Path
    cells: Path

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the write lock of the answer."""
        with locked(self.place.with_name(f".{self.place.name}.lock")):
            yield


def make_plan(
    question: str | Question,
    base: str | Experiment | None,
    preset: str | Preset,
    out: str | Path,
    path: Path | None,
    first_seed: int,
    names: Sequence[str] | None = None,
) -> Plan:
    """Create the plan of an answer, and its directory; see `answer`.

    Raises:
        FlowvaeError: for unknown names, a choice of arms without the baseline, data that cannot be loaded or lack what
            the question needs, arms that cannot be created or have different protocols, or a directory that cannot be
            written.
    """
    question, settings, out = question_of(question), preset_of(preset), as_path(out)
    check_measures(question.measures, "test", "none")
    check_int_value("first_seed", first_seed, least=0, most=LARGEST_SEED - settings.seeds + 1)
    base = question.data[0] if base is None else base
    if isinstance(base, str):
        data_name, experiment = base, base_on(base, path)
    elif path is not None:
        raise FlowvaeError(f"path {shown_path(path)}: is for data sets by name; set it in the base experiment.")
    else:
        data_name, experiment = "", base
    if not isinstance(experiment, Experiment):
        raise FlowvaeError(f"base = {shown(base)}: must be an Experiment, or the name of a data set.")
    data = experiment.data.load(first_seed)
    arms = question.experiments(experiment, settings, data=data)
    chosen = arms if names is None else _choose(arms, names, question.baseline)
    left_out, arms = chosen.keys() != arms.keys(), chosen
    first = next(iter(arms.values())).data
    if first != experiment.data:  # the question changes the data
        data = first.load(first_seed)
    check_arms(arms, data, first_seed)
    name = preset if isinstance(preset, str) else settings.label(max(arm.inference.epochs for arm in arms.values()))
    name += f"-from-seed-{first_seed}" if first_seed else ""
    name += f"-{_name_of_choice(arms)}" if left_out else ""
    place = out / f"{question.name}-{data_name or _name_of_own(experiment, data)}-{name}"
    make_directory(place)
    seeds = range(first_seed, first_seed + settings.seeds)
    return Plan(question, arms, seeds, data, data_name or data.name, settings, name, place, out / "cells")


def _choose(arms: dict[str, Experiment], names: Sequence[str], baseline: str) -> dict[str, Experiment]:
    """Return the arms with these names, in the order of the question, at all levels of a factor."""
    given = (names,) if isinstance(names, str) else tuple(names)
    known = dict.fromkeys(arm.partition("@")[0] for arm in arms)
    for name in given:
        named("arm", str(name), known)
    if baseline not in given:
        raise FlowvaeError(
            f"arms = {shown(given)}: the baseline, {baseline}, is missing; add it, since all arms are compared with it."
        )
    return {arm: experiment for arm, experiment in arms.items() if arm.partition("@")[0] in given}


def _name_of_choice(arms: dict[str, Experiment]) -> str:
    """Return a name for chosen arms in file names: their names, or their number with a hash."""
    names = dict.fromkeys(arm.partition("@")[0] for arm in arms)
    every = "-".join(names)
    return every if len(every) <= LONGEST else f"{len(names)}-arms-{sha256(every.encode()).hexdigest()[:8]}"


def _name_of_own(base: Experiment, data: Dataset) -> str:
    """Return a name for a user's data in file names, with a hash of the settings of the base experiment."""
    name = re.sub(r"[^\w.-]+", "-", data.name).strip(".-")[:LONGEST] or "data"
    return f"{name}-{cell_name(base)[:8]}"
