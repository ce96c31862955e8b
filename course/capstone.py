"""The capstone: your own data with a hidden part, a review of the plan, and one final test on the hidden part."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flowvae.comparisons import Answer, Preset, Question, paired_differences
from flowvae.comparisons.engine.statistics import describe
from flowvae.core.errors import FlowvaeError, shown
from flowvae.core.files import as_path, atomic_write
from flowvae.core.parts import LikelihoodSpec
from flowvae.core.seeds import derive
from flowvae.course import rubric
from flowvae.data import Dataset, DataSpec, as_data, batch_of
from flowvae.evaluation import measure_likelihoods
from flowvae.experiments.experiment import Experiment
from flowvae.experiments.run import load

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Hidden", "Project", "seal"]

RECORD = "opened.json"  # in the project's folder
PLAN = ("asks", "predicts", "measure", "lower_is_better", "arms", "seeds", "draws")  # must not change later


@dataclass(frozen=True)
class Hidden:
    """Results on the hidden part.

    Args:
        table: One row per run: arm, seed, nll and elbo on the hidden part.
        differences: Paired differences of the primary measure, as in an answer.
        sentences: The differences in words.
        opened: When the hidden part was opened.
        again: Whether these are the stored results of an earlier call.
    """

    table: pd.DataFrame
    differences: pd.DataFrame
    sentences: list[str]
    opened: str
    again: bool

    def __repr__(self) -> str:
        first = f"opened before, on {self.opened}; measured then" if self.again else f"opened on {self.opened}"
        return "\n".join([f"hidden part {first}:", *(f"- {sentence}" for sentence in self.sentences)])


@dataclass(frozen=True)
class Project:
    """Data with a hidden part, and the folder of their runs and answers.

    Args:
        data: For `Experiment(data=…)`: training and validation data; the validation data are also the "test" split.
        folder: The `out` of `answer`.
        sealed: The data with the hidden part as test split; do not look at it before the end.
    """

    data: DataSpec
    folder: Path
    sealed: Dataset = field(repr=False, compare=False)

    def review(self, question: Question, base: Experiment, preset: str | Preset) -> rubric.Review:
        """Checks a planned comparison by the rules of the rubric, before the first run.

        Args:
            question: The question.
            base: The experiment that all arms share, with the project's data.
            preset: The effort, as for `answer`.
        """
        return rubric.review(self.data, question, base, preset)

    def open_hidden(self, answer: Answer) -> Hidden:
        """Measures the trained runs of an answer on the hidden part, once; later calls return the stored results.

        Args:
            answer: The answer; all its runs must be finished.

        Raises:
            FlowvaeError: The hidden part was opened for another plan, runs failed or belong to another project, or the
                primary measure is neither "nll" nor "elbo".
        """
        import pandas as pd

        file, plan = self.folder / RECORD, _plan_of(answer)
        again = file.exists()
        if not again:
            record = {"opened": f"{datetime.now():%Y-%m-%d %H:%M}", "plan": plan, **self._measure(answer, plan)}
            with atomic_write(file) as temporary:
                temporary.write_text(json.dumps(record), encoding="utf-8")
        record = json.loads(file.read_text(encoding="utf-8"))
        if changed := [name for name, value in plan.items() if record["plan"][name] != value]:
            raise FlowvaeError(
                f"{file}: the hidden part was opened on {record['opened']}, and {', '.join(changed)} changed since; a "
                "new plan needs new data."
            )
        table, differences = pd.DataFrame(record["table"]), pd.DataFrame(record["differences"])
        return Hidden(table, differences, record["sentences"], record["opened"], again)

    def _measure(self, answer: Answer, plan: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the results on the hidden part for the record: a row per run, differences, sentences."""
        import pandas as pd

        if plan["measure"] not in rubric.MEASURES:
            raise FlowvaeError(
                f"measure {shown(plan['measure'])}: the hidden part has only {' and '.join(rubric.MEASURES)}."
            )
        if len(answer.grid.failed):
            first = answer.grid.failed.iloc[0]
            raise FlowvaeError(
                f"{len(answer.grid.failed)} runs failed, the first ({first['arm']}, seed {first['seed']}) with: "
                f"{first['error']} The hidden part is still unseen: change the plan and answer the question again."
            )
        rows = []
        for cell in answer.grid.table.itertuples():
            run = load(answer.directory.parent / "cells" / cell.cell)
            if run.experiment.data != self.data:
                raise FlowvaeError(f"{cell.arm}, seed {cell.seed}: was trained on other data than the project's.")
            batch = batch_of(self.sealed, run.experiment.condition, "test")
            found = measure_likelihoods(*run.pair, batch, draws=plan["draws"], seed=derive(cell.seed, "hidden"))
            means = {"nll": -found.log_evidence.mean().item(), "elbo": found.elbo.mean().item()}
            rows.append({"arm": cell.arm, "seed": cell.seed, **means})
        unit = json.loads((answer.directory / "answer.json").read_text(encoding="utf-8"))["unit"]
        differences = paired_differences(pd.DataFrame(rows), [tuple(pair) for pair in plan["pairs"]], plan["measure"])
        sentences = [describe(row, unit, plan["lower_is_better"]) for _, row in differences.iterrows()]
        return {"table": rows, "differences": differences.to_dict("records"), "sentences": sentences}


def _plan_of(answer: Answer) -> dict[str, Any]:
    """Returns the parts of the plan that must not change after the hidden part was opened."""
    told = json.loads((answer.directory / "answer.json").read_text(encoding="utf-8"))
    pairs = answer.differences[told["measure"]][["arm", "against"]]
    return {name: told[name] for name in PLAN} | {"pairs": pairs.to_numpy().tolist()}


def seal(
    x: Any,
    likelihood: LikelihoodSpec | str,
    folder: str | Path,
    *,
    labels: Any = None,
    hidden: float = 0.2,
    valid: float = 0.2,
    seed: int = 0,
    name: str = "my-data",
) -> Project:
    """Splits off a hidden part of your data, which is not used before it is opened.

    The same arguments give the same split, so a project can be continued in another session.

    Args:
        x: Data (N, …), an array, a tensor or a data frame of numbers.
        likelihood: Likelihood of the data, as for `as_data`.
        folder: Folder of the runs, the answers, and the record of the opening.
        labels: Class labels (N,), if there are any.
        hidden: Share of the hidden data.
        valid: Share of the validation data, which stop the training and are reported until the hidden part is opened.
        seed: Seed of the random split.
        name: Name of the data.

    Raises:
        FlowvaeError: A share is not between 0 and 1, or the data do not fit the likelihood.
    """
    for what, share in (("hidden", hidden), ("valid", valid), ("hidden + valid", hidden + valid)):
        if not 0 < share < 1:
            raise FlowvaeError(f"seal: {what} = {share:g}; must be a share of the data between 0 and 1.")
    values, classes = np.asarray(x), None if labels is None else np.asarray(labels)
    ends = [round(share * len(values)) for share in (hidden, hidden + valid)]
    parts = np.split(np.random.default_rng(seed).permutation(len(values)), ends)
    rows = dict(zip(("test", "valid", "train"), parts, strict=True))
    by_split = {split: values[rows[split]] for split in ("train", "valid", "test")}
    named = None if classes is None else {split: classes[index] for split, index in rows.items()}
    sealed = as_data(by_split, likelihood, labels=named, name=name).load(0)
    seen = None if sealed.labels is None else {**sealed.labels, "test": sealed.labels["valid"]}
    split = f"drawn by seed {seed}, {len(rows['test'])} hidden, measured on valid"
    return Project(as_data(replace(sealed, test=sealed.valid, labels=seen, split=split)), as_path(folder), sealed)
