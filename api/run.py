"""A run: what lies in the directory of a trained experiment, and what can be asked of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from flowvae.data import Dataset
from flowvae.errors import FlowvaeError, nearest, whole_number
from flowvae.evaluation import (
    MEASURES,
    Metric,
    Subject,
    check_measures,
    merge_metrics,
    read_metrics,
    write_figure,
)
from flowvae.guides import AmortizedGuide
from flowvae.models import VAE

if TYPE_CHECKING:
    from flowvae.experiment import Experiment  # which makes runs, so it imports this file

__all__ = ["NotTaken", "Pair", "Run", "is_finished"]


class NotTaken(FlowvaeError):  # noqa: N818  (what happened, not what class it is of)
    """Measures that could not be taken, with their reasons.

    Args:
        text: what it says.
        taken: the metrics of the measures that were.
    """

    def __init__(self, text: str, taken: list[Metric]) -> None:
        super().__init__(text)
        self.taken = taken


class Pair(NamedTuple):
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
    """

    directory: Path
    experiment: Experiment
    data: Dataset
    pair: Pair

    @property
    def metrics(self) -> list[Metric]:
        """What has been measured so far."""
        file = self.directory / "metrics.json"
        return read_metrics(file) if file.exists() else []

    def metric(self, name: str, split: str = "test") -> Metric:
        """One measure by its name.

        Raises:
            FlowvaeError: if it has not been measured; names those that have.
        """
        found = {metric.name: metric for metric in self.metrics if metric.split == split}
        if not found:
            raise FlowvaeError(
                f"{self.directory}: nothing has been measured on {split}, so there is no {name!r}; evaluate the run, "
                "after going on with its training (--resume) if that has not ended."
            )
        if name not in found:
            raise FlowvaeError(f"{self.directory}, {split}: no measure {name!r}; {nearest(name, found)}")
        return found[name]

    @property
    def history(self) -> pd.DataFrame:
        """One row an epoch of the last stage.

        Raises:
            FlowvaeError: if its training has not ended.
        """
        if not (self.directory / "history.csv").is_file():
            raise FlowvaeError(f"{self.directory}: its training has not ended; go on with it (--resume).")
        return pd.read_csv(self.directory / "history.csv")

    @property
    def whole_history(self) -> pd.DataFrame:
        """One row an epoch of all stages, the first stage first."""
        places = [self.directory]
        for stage in self.experiment.stages():
            if stage.second_stage:
                places.append(places[-1] / stage.second_stage.follows)
        return pd.concat([pd.read_csv(place / "history.csv") for place in reversed(places)], ignore_index=True)

    @property
    def parameters(self) -> int:
        """How many numbers were trained, in model and guide."""
        return sum(p.numel() for part in self.pair for p in part.parameters())

    @property
    def measured(self) -> set[str]:
        """Names of the measures that have been taken on the test split."""
        return {m.protocol["measure"] for m in self.metrics if m.protocol.get("of") == "test"}

    def evaluate(
        self,
        *,
        measures: Sequence[str] = ("likelihood",),
        split: str = "test",
        draws: int = 1000,
        seed: int = 0,
        compile: str = "none",  # noqa: A002
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
            figures: whether to draw the measures that have a figure, into the run's figures.
            progress: whether to show progress bars.

        Raises:
            FlowvaeError: for an unknown measure or split, or one of held-out data on "train"; before any work.
            NotTaken: at the end, if a measure could not be taken; names each of them with its reason.
        """
        whole_number("draws", draws)
        check_measures(measures, split, compile)
        new: list[Metric] = []
        refused: dict[str, FlowvaeError] = {}
        for name in measures:
            protocol = {
                "measure": name,
                "of": split,
                "data": self.data.identity.as_dict(),
                "flowvae": version("flowvae"),
            }
            subject = Subject(*self.pair, self.data, split, draws, seed, protocol, compile, progress)
            try:
                taken = MEASURES[name](subject)
            except FlowvaeError as error:
                refused[name] = error
                continue
            merge_metrics(self.directory / "metrics.json", taken.metrics)  # at once: the next one may be interrupted
            new += taken.metrics
            for title, draw in taken.figures.items() if figures else ():
                write_figure(draw(), self.directory / "figures" / f"{title}.png")
        if refused:
            reasons = "; ".join(f"{name} ({str(error).rstrip('.')})" for name, error in refused.items())
            raise NotTaken(f"{self.directory}: could not be measured: {reasons}.", new)
        return new


def is_finished(directory: str | Path) -> bool:
    """Whether a run in that directory has ended its training, and has been measured."""
    directory = Path(directory)
    return (directory / "history.csv").is_file() and (directory / "metrics.json").is_file()
