"""A run: what lies in the directory of a trained experiment, and what can be asked of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from flowvae.core.errors import DamagedError, FlowvaeError, check_int_value, nearest, one_line, shown
from flowvae.data import Dataset
from flowvae.evaluation import (
    MEASURES,
    Effort,
    EvaluationContext,
    Metric,
    check_measures,
    merge_metrics,
    read_metrics,
    write_figure,
)
from flowvae.experiments.directory import (
    CHECKPOINT,
    HISTORY,
    METRICS,
    check_files,
    delete_leftovers,
    figure_file,
    writing,
)
from flowvae.guides import AmortizedGuide
from flowvae.inference import checkpoint_digest, history_table, load_checkpoint
from flowvae.models import VAE

if TYPE_CHECKING:
    from flowvae.experiments.experiment import Experiment  # which makes runs, so it imports this file

__all__ = ["MeasurementError", "ModelGuide", "Run", "check_history", "is_finished"]


class MeasurementError(FlowvaeError):
    """Measures that could not be taken, with their reasons.

    Args:
        text: what it says.
        taken: the metrics of the measures that were.
    """

    def __init__(self, text: str, taken: list[Metric]) -> None:
        super().__init__(text)
        self.taken = taken


class ModelGuide(NamedTuple):
    """A Pyro model and its guide; both are torch modules and plain Pyro callables of a batch (B, D)."""

    model: VAE
    guide: AmortizedGuide


@dataclass(frozen=True)
class Run:
    """A trained experiment: its directory, data and best weights.

    Args:
        directory: where its files are.
        experiment: its settings.
        data: its data.
        pair: model and guide with the best weights.
        checkpoint: checksum of the checkpoint that the weights are from.
    """

    directory: Path
    experiment: Experiment
    data: Dataset
    pair: ModelGuide
    checkpoint: str = ""

    @property
    def metrics(self) -> list[Metric]:
        """What has been measured so far.

        Raises:
            DamagedError: if metrics.json has been edited, or is that of other weights.
        """
        file = self.directory / METRICS
        return read_metrics(file, self.checkpoint) if file.exists() else []

    def metric(self, name: str, split: str = "test") -> Metric:
        """One measure by its name.

        Raises:
            FlowvaeError: if it has not been measured; names those that have.
        """
        found = {metric.name: metric for metric in self.metrics if metric.split == split}
        if not found:
            raise FlowvaeError(
                f"{self.directory}: nothing has been measured on {split}, so there is no {shown(name)}; evaluate the "
                "run, after going on with its training (--resume) if that has not ended."
            )
        if name not in found:
            raise FlowvaeError(f"{self.directory}, {split}: no measure {shown(name)}; {nearest(name, found)}")
        return found[name]

    @property
    def history(self) -> pd.DataFrame:
        """One row an epoch of the last stage.

        Raises:
            DamagedError: if history.csv is not what the checkpoint says.
            FlowvaeError: if its training has not ended.
        """
        if not (self.directory / HISTORY).is_file():
            raise FlowvaeError(f"{self.directory}: its training has not ended; go on with it (--resume).")
        return check_history(self.directory, load_checkpoint(self.directory / CHECKPOINT)[1])

    @property
    def whole_history(self) -> pd.DataFrame:
        """One row an epoch of all stages, the first stage first.

        Raises:
            DamagedError: if the history or checkpoint of an earlier stage is missing or damaged.
            FlowvaeError: if the training of the last stage has not ended.
        """
        histories, place = [self.history], self.directory
        for stage in self.experiment.stages():
            if stage.second_stage:
                place = place / stage.second_stage.follows
                try:
                    histories.append(check_history(place, load_checkpoint(place / CHECKPOINT)[1]))
                except FlowvaeError as error:
                    raise DamagedError(str(error)) from None
        return pd.concat(histories[::-1], ignore_index=True)

    @property
    def parameters(self) -> int:
        """How many numbers were trained, in model and guide."""
        return sum(p.numel() for part in self.pair for p in part.parameters())

    @property
    def measured(self) -> dict[str, dict[str, Any] | None]:
        """Measures that have been taken on the test split, with the effort of those that depend on it."""
        return {m.protocol["measure"]: m.protocol.get("effort") for m in self.metrics if m.protocol.get("of") == "test"}

    def evaluate(
        self,
        *,
        measures: Sequence[str] = ("likelihood",),
        split: str = "test",
        draws: int = 1000,
        seed: int = 0,
        compile: str = "none",  # noqa: A002
        effort: Effort | None = None,
        figures: bool = False,
        progress: bool = True,
    ) -> list[Metric]:
        """Take measures on a split, and put the figures into metrics.json.

        A measure that cannot be taken, such as one that needs more data, stops none of the others.

        Args:
            measures: names in `flowvae.evaluation.MEASURES`; "likelihood" is ELBO, its two parts and the NLL.
            split: "train", "valid" or "test".
            draws: K of the NLL.
            seed: of all measures.
            compile: "none", "capture" or "inductor": how likelihood and IWAE bound are computed. Inductor pays from
                some thousand data on.
            effort: size of the measures that refine guides or run chains.
            figures: whether to draw the measures that have a figure, into the run's figures.
            progress: whether to show progress bars.

        Raises:
            DamagedError: if metrics.json has been edited; before any work.
            FlowvaeError: for an unknown measure or split, or one of held-out data on "train", and if the directory
                cannot be written or holds other weights than these; before any work.
            MeasurementError: at the end, if a measure could not be taken; names each of them with its reason.
        """
        check_int_value("draws", draws)
        check_measures(measures, split, compile)
        if not measures:
            return []
        with self._writing():  # before the work, which would be lost
            self.metrics  # noqa: B018  (raises where it is damaged)
        new: list[Metric] = []
        refused: dict[str, FlowvaeError] = {}
        for name in measures:
            protocol = {
                "measure": name,
                "of": split,
                "data": self.data.identity.as_dict(),
                "flowvae": version("flowvae"),
            }
            subject = EvaluationContext(
                *self.pair, self.data, split, draws, seed, protocol, compile, effort or Effort(), progress
            )
            try:
                taken = MEASURES[name](subject)
            except FlowvaeError as error:
                refused[name] = error
                continue
            with self._writing():  # at once: the next one may be interrupted
                merge_metrics(self.directory / METRICS, taken.metrics, self.checkpoint)
            new += taken.metrics
            for title, draw in taken.figures.items() if figures else ():
                write_figure(draw(), figure_file(self.directory, title))
        if refused:
            reasons = "; ".join(f"{name} ({str(error).rstrip('.')})" for name, error in refused.items())
            raise MeasurementError(f"{self.directory}: could not be measured: {reasons}.", new)
        return new

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Be the only writer to the directory, and only while it holds the weights of this run."""
        self._check_weights()
        with writing(self.directory, wait=10.0):
            self._check_weights()
            check_files(self.directory)
            delete_leftovers(self.directory)
            yield

    def _check_weights(self) -> None:
        if checkpoint_digest(self.directory / CHECKPOINT) != self.checkpoint:
            raise FlowvaeError(
                f"{self.directory}: holds other weights than when the run was opened, so nothing is stored; open it "
                "again when its training has ended."
            )


def check_history(directory: Path, facts: dict[str, Any]) -> pd.DataFrame:
    """One row an epoch, as the facts of a checkpoint have it.

    Raises:
        DamagedError: if history.csv says anything else.
    """
    history = history_table(facts["progress"]["rows"], facts["progress"]["best_epoch"])
    file = directory / HISTORY
    try:
        expected = pd.read_csv(StringIO(history.to_csv(index=False)), dtype=str)  # every digit counts
        same, reason = pd.read_csv(file, dtype=str).equals(expected), "its rows are others"
    except (FileNotFoundError, ValueError) as error:
        same, reason = False, one_line(error)
    if not same:
        raise DamagedError(
            f"{file}: does not match the checkpoint beside it ({reason}); go on with the run (--resume), which writes "
            "it again."
        )
    return history


def is_finished(directory: str | Path) -> bool:
    """Whether a run in that directory has ended its training, and has been measured."""
    directory = Path(directory)
    return (directory / HISTORY).is_file() and (directory / METRICS).is_file()
