"""Runs: trained experiments, their measures and figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowvae.core.errors import FlowvaeError, check_int_value, nearest, one_line, shown
from flowvae.core.files import as_path
from flowvae.data import Dataset, identity_of
from flowvae.evaluation import (
    MEASURES,
    Effort,
    EvaluationContext,
    Metric,
    check_measures,
    draw_figure,
    merge_metrics,
    merged,
    read_metrics,
    write_figure,
)
from flowvae.experiments.card import UNKNOWN
from flowvae.experiments.directory import (
    CHECKPOINT,
    METRICS,
    SETTINGS,
    check_files,
    delete_leftovers,
    figure_file,
    writing,
)
from flowvae.experiments.portable import SUFFIX, Exported, read_file, write_file
from flowvae.experiments.reading import Opened, data_of_run, open_directory, read_histories, read_history
from flowvae.experiments.trained_model import TrainedModel
from flowvae.inference import checkpoint_digest

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["MeasurementError", "Run", "load"]


class MeasurementError(FlowvaeError):
    """Measures that could not be computed.

    Args:
        text: the message.
        taken: metrics of the other measures.
        reasons: errors by name of the measure.
    """

    def __init__(self, text: str, taken: list[Metric], reasons: Mapping[str, FlowvaeError]) -> None:
        super().__init__(text)
        self.taken = taken
        self.reasons = reasons


@dataclass(frozen=True, repr=False)
class Run(TrainedModel):
    """A trained experiment: its settings, the signature of its data, and its best weights.

    Loading, encoding and sampling do not need the data; measures and some figures load them.

    Args:
        directory: directory of its files; None: it was trained without one, or opened from an exported file.
        file: the exported file that it was opened from.
        checkpoint: checksum of the checkpoint of the weights.
        identity: identity of the data that it was trained on, as plain texts.
        known_data: the data, if they are already loaded.
        known_metrics: metrics of a run without a directory.
        known_histories: histories of a run without a directory, one table per stage with one row per epoch.
    """

    directory: Path | None = None
    file: Path | None = None
    checkpoint: str = ""
    identity: dict[str, str] = field(default_factory=dict, repr=False, compare=False)
    known_data: Dataset | None = field(default=None, repr=False, compare=False)
    known_metrics: Sequence[Metric] = field(default=(), repr=False, compare=False)
    known_histories: Sequence[pd.DataFrame] = field(default=(), repr=False, compare=False)

    def __repr__(self) -> str:
        place = self.directory or self.file
        return super().__repr__().replace("(", f"({str(place)!r}, " if place else "(", 1)

    @property
    def name(self) -> str:
        """Its directory or file, as its name in messages."""
        return str(self.directory or self.file or "this run")

    @property
    def data(self) -> Dataset:
        """The data, loaded on first access.

        Raises:
            FlowvaeError: if they cannot be loaded, or differ from those of the training.
        """
        if self.known_data is not None:
            return self.known_data
        data = self._load_data()
        then, now = self.identity, identity_of(data, self.experiment.condition).as_dict()
        if then["sha256"] != now["sha256"]:
            raise FlowvaeError(f"{self.name}: was trained on {one_line(then)}, but the data are now {now}.")
        object.__setattr__(self, "known_data", data)
        return data

    def _load_data(self) -> Dataset:
        try:
            if self.directory is not None:
                return data_of_run(self.experiment, self.directory / SETTINGS)
            return self.experiment.data.load(self.experiment.seed)
        except FlowvaeError as error:
            reason = str(error).rstrip(".")
            raise FlowvaeError(
                f"{self.name}: measures and this kind of figure need its data, which cannot be loaded ({reason}); pass "
                f"them to load({shown(self.name)}, data=…)."
            ) from None

    @property
    def metrics(self) -> list[Metric]:
        """The stored metrics.

        Raises:
            DamagedError: if metrics.json has been edited, or belongs to other weights.
        """
        if self.directory is None:
            return list(self.known_metrics)
        file = self.directory / METRICS
        return read_metrics(file, self.checkpoint) if file.exists() else []

    def metric(self, name: str, split: str = "test") -> Metric:
        """Return a stored metric by its name.

        Raises:
            FlowvaeError: if it has not been measured, with the names of those that have.
        """
        found = {metric.name: metric for metric in self.metrics if metric.split == split}
        if not found:
            raise FlowvaeError(
                f"{self.name}: nothing has been measured on {split}, so there is no {shown(name)}; evaluate the "
                "run; if its training has not ended, continue it first with --resume."
            )
        if name not in found:
            raise FlowvaeError(f"{self.name}, {split}: no measure {shown(name)}; {nearest(name, found)}")
        return found[name]

    @property
    def history(self) -> pd.DataFrame:
        """The history of the last stage, one row per epoch.

        Raises:
            DamagedError: if history.csv differs from the checkpoint.
            FlowvaeError: if its training has not ended.
        """
        return self.known_histories[-1] if self.directory is None else read_history(self.directory)

    @property
    def objective(self) -> str:
        """Name of what the last stage maximized, the columns `train_elbo` and `valid_elbo` of its history."""
        second, objective = self.experiment.second_stage, self.experiment.last_training.objective
        if second is not None and (second.distill or hasattr(self.pair.model.prior, "objective")):
            return "negative loss of the prior"
        return "ELBO" if objective.family == "elbo" else objective.title

    @property
    def histories(self) -> list[pd.DataFrame]:
        """The histories of all stages, the first stage first, each with one row per epoch.

        Raises:
            DamagedError: if the history or checkpoint of an earlier stage is missing or damaged.
            FlowvaeError: if the training of the last stage has not ended.
        """
        return list(self.known_histories) if self.directory is None else read_histories(self.directory, self.experiment)

    @property
    def whole_history(self) -> pd.DataFrame:
        """The histories of all stages in one table, see `histories`."""
        import pandas as pd

        return pd.concat(self.histories, ignore_index=True)

    @property
    def parameters(self) -> int:
        """Number of parameters of model and guide."""
        return sum(p.numel() for part in self.pair for p in part.parameters())

    @property
    def measured(self) -> dict[str, dict[str, Any] | None]:
        """Measures that have been computed on the test split, each with its effort, or None if it has no effort."""
        return {m.protocol["measure"]: m.protocol.get("effort") for m in self.metrics if m.protocol.get("of") == "test"}

    def evaluate(
        self,
        *,
        measures: Sequence[str] = ("likelihood",),
        split: str = "test",
        draws: int = 1000,
        seed: int = 0,
        compile: str = "capture",  # noqa: A002
        effort: Effort | None = None,
        figures: bool = False,
        progress: bool = True,
    ) -> list[Metric]:
        """Compute measures on a split, and store them in metrics.json, or in memory if the run has no directory.

        If a measure cannot be computed, the others still are.

        Args:
            measures: names in `flowvae.evaluation.MEASURES`; "likelihood" is ELBO, its two parts and the NLL.
            split: "train", "valid" or "test".
            draws: K of the NLL.
            seed: seed of all measures.
            compile: how likelihood and IWAE are computed: "capture", "inductor" (pays off from some thousand data
                points on) or "none".
            effort: computational effort of the measures that refine guides or run chains.
            figures: whether to write the figures of those measures that have one.
            progress: whether to show progress bars.

        Returns:
            The new metrics.

        Raises:
            DamagedError: if metrics.json has been edited; before any work.
            FlowvaeError: for an unknown measure or split, a measure of held-out data on "train", data that cannot be
                loaded, and a directory that cannot be written or has other weights than this run; before any work.
            MeasurementError: at the end, if some measures could not be computed, with the reasons.
        """
        check_int_value("draws", draws)
        check_measures(measures, split, compile)
        if not measures:
            return []
        if figures and self.directory is None:
            raise FlowvaeError(f"figures = True: {self.name} has no directory for them; leave figures out.")
        with self._writing():  # before the work, whose results would be lost
            self.metrics  # noqa: B018  (raises an error if it is damaged)
        data, effort = self.data, effort or Effort()
        about = {
            "of": split,
            "data": identity_of(data, self.experiment.condition).as_dict(),
            "flowvae": version("flowvae"),
        }
        density = getattr(self.pair.model.prior, "facts", None)
        if density is not None:
            about["prior"] = density()
        new: list[Metric] = []
        refused: dict[str, FlowvaeError] = {}
        for name in measures:
            facts = {"measure": name, **about}
            context = EvaluationContext(*self.pair, data, split, draws, seed, facts, compile, effort, progress)
            try:
                taken = MEASURES[name](context)
            except FlowvaeError as error:
                refused[name] = error
                continue
            with self._writing():  # immediately, since the next measure may be interrupted
                if self.directory is not None:
                    merge_metrics(self.directory / METRICS, taken.metrics, self.checkpoint)
                else:
                    object.__setattr__(self, "known_metrics", merged(self.known_metrics, taken.metrics))
            new += taken.metrics
            for title, draw in taken.figures.items() if figures and self.directory else ():
                write_figure(draw(), figure_file(self.directory, title))  # type: ignore[arg-type]
        if refused:
            reasons = "; ".join(f"{name} ({str(error).rstrip('.')})" for name, error in refused.items())
            raise MeasurementError(f"{self.name}: could not be measured: {reasons}.", new, refused)
        return new

    def figure(self, name: str, **settings: Any) -> Figure:
        """Draw a figure of the run; a notebook displays it.

        `run.figure("traversal", space="base")` calls `plot_traversal` with that setting. The default seed is that of
        the experiment.

        Args:
            name: samples, reconstructions, neighbours, interpolation, traversal, latent or history.
            settings: settings of its function, such as `of="draws"` of samples, or `steps=9` of interpolation.

        Raises:
            FlowvaeError: for an unknown name or setting, and data that the figure cannot show or that cannot be loaded.
        """
        parts = {
            "model": lambda: self.pair.model,
            "guide": lambda: self.pair.guide,
            "data": lambda: self.data,
            "history": lambda: self.history,
            "objective": lambda: self.objective,
            "seed": lambda: self.experiment.seed,
        }
        return draw_figure(name, parts, **settings)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Hold the lock of the directory, if there is one, after checking that it has the weights of this run."""
        place = self.directory
        if place is None:
            yield
            return
        self._check_weights(place)
        with writing(place, wait=10.0):
            self._check_weights(place)
            check_files(place)
            delete_leftovers(place)
            yield

    def _check_weights(self, directory: Path) -> None:
        if checkpoint_digest(directory / CHECKPOINT) != self.checkpoint:
            raise FlowvaeError(
                f"{directory}: has other weights than when the run was opened, so nothing is stored; open it "
                "again when its training has ended."
            )

    def export(self, file: str | Path, *, licence: str = UNKNOWN) -> Path:
        """Write everything except the data to one file, which `load(file)` opens on any machine.

        Args:
            file: the file to write, NAME.safetensors; an earlier file, and the model card NAME.md beside it, are
                replaced.
            licence: licence of the weights, for the card, such as "mit".

        Returns:
            The file.

        Raises:
            FlowvaeError: if the training has not ended, a part has no name, or the file cannot be written.
        """
        opened = Opened(self.experiment, self.signature, self.pair, self.identity, self.checkpoint)
        file = as_path(file)
        write_file(file, Exported(opened, self.metrics, self.histories), licence)
        return file


def load(path: str | Path, data: Any = None) -> Run:
    """Open a run, with its best weights, from its directory or its exported file.

    An unfinished run is opened with an `UnfinishedRunWarning`. The data are loaded only when they are needed, such as
    for a measure. Location of the data and device may be changed in experiment.yaml (`data.path`, `inference.device`);
    the data are verified by their checksum. If the device is not available, another one is used, with an
    `OtherDeviceWarning`.

    Args:
        path: the directory or file.
        data: the data of the training, if they were given in Python (arrays, or the result of `as_data`) or have moved
            (the data spec with its new path).

    Raises:
        DamagedError: if the checkpoint is missing or damaged, history.csv or metrics.json has been edited, or
            experiment.yaml has been changed in other settings.
        FlowvaeError: if it is not a run, and for data that differ from those of the training.
    """
    path = as_path(path)
    if path.is_file() or (path.suffix == SUFFIX and not path.exists()):
        found, metrics, histories = read_file(path)
        where: dict[str, Any] = {"file": path, "known_metrics": metrics, "known_histories": histories}
    else:
        found, where = open_directory(path), {"directory": path}
    settings, signature, pair, identity, checkpoint = found
    if data is not None:
        try:
            settings = replace(settings, data=settings.data.given(data))
        except FlowvaeError as error:
            then = f"{signature.rows} data points of shape {signature.shape}"
            raise FlowvaeError(f"{path}: was trained on {then}; {error}") from None
    run = Run(settings, signature, pair, checkpoint=checkpoint, identity=identity, **where)
    run.metrics  # noqa: B018  (raises an error if they are damaged)
    return run
