"""An experiment: every part of a VAE named in one frozen object, which trains, measures and draws itself."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from flowvae.core.errors import (
    DamagedError,
    EstimatedDensityWarning,
    FlowvaeError,
    ImproperDensityWarning,
    OtherDeviceWarning,
    SlowDirectionWarning,
    UnfinishedRunWarning,
    check_int,
    check_int_value,
    one_line,
    shown,
)
from flowvae.core.files import as_path, atomic_write, write_table
from flowvae.core.memory import check_memory, watched
from flowvae.core.seeds import derive, seeded
from flowvae.core.yaml_reader import read_yaml
from flowvae.data import Dataset, DataSpec, Digits
from flowvae.evaluation import draw_figures, read_metrics
from flowvae.evaluation.likelihood.importance_weights import check_draws
from flowvae.experiments.directory import (
    CHECKPOINT,
    HISTORY,
    METRICS,
    SETTINGS,
    check_files,
    copy_run,
    delete_leftovers,
    delete_run,
    foreign,
    holds_run,
    is_empty,
    writing,
)
from flowvae.experiments.families import check_own_flow
from flowvae.experiments.run import ModelGuide, Run, check_history, is_finished
from flowvae.experiments.serialization import build_spec, from_plain, to_plain
from flowvae.experiments.stages import SecondStage, freeze_except_prior, load_stage_weights
from flowvae.flows import FlowSpec
from flowvae.flows.spec import warn_if_slow
from flowvae.guides import Gaussian, GuideSpec, SemiAmortized
from flowvae.inference import (
    Training,
    best_weights,
    checkpoint_digest,
    choose_device,
    fit,
    load_checkpoint,
    log_joint,
)
from flowvae.models import VAE, FlowDecoder, PriorSpec, StandardNormal, check_prior, warn_if_improper
from flowvae.networks import MLP, Standardize

__all__ = ["Experiment", "fit_prior", "load", "same_anywhere"]

DRAWS = 1000  # K of the test NLL, unless told otherwise
LARGEST_SEED = 2**32 - 1  # that NumPy's generators take, with which scikit-learn draws splits


@dataclass(frozen=True)
class Experiment:
    """A VAE with its data and training; swap a part with `dataclasses.replace`.

    Args:
        latent: dimension of the code.
        seed: decides split, initial weights, order of batches and noise.
        encoder: trunk of the guide's network.
        decoder: network from code to data: `MLP`, or `FlowDecoder` with a flow before it.
        inference: how to train.
        data: data set, with its likelihood.
        prior: p(z): `StandardNormal`, `Mixture` or any flow.
        guide: q(z | x): `Gaussian`, `FullRank`, `FlowGuide` or `SemiAmortized`.
        second_stage: another prior, fitted after the training of all this; none: no second stage.

    >>> from dataclasses import replace
    >>> from flowvae import MAF
    >>> replace(Experiment(), prior=MAF(transforms=5)).prior
    MAF(transforms=5, hidden_features=(32,))
    """

    latent: int = 8
    seed: int = 0
    encoder: MLP = field(default_factory=MLP)
    decoder: MLP | FlowDecoder = field(default_factory=MLP)
    inference: Training = field(default_factory=Training)
    data: DataSpec = field(default_factory=Digits)
    prior: PriorSpec = field(default_factory=StandardNormal)
    guide: GuideSpec = field(default_factory=Gaussian)
    second_stage: SecondStage | None = None

    def __post_init__(self) -> None:
        check_int(self, "latent")
        check_int(self, "seed", least=0, most=LARGEST_SEED)
        kinds: dict[str, tuple[type, ...]] = {
            "encoder": (MLP,),
            "decoder": (MLP, FlowDecoder),
            "inference": (Training,),
            "data": (DataSpec,),
            "guide": (GuideSpec,),
            "second_stage": (SecondStage, type(None)),
        }
        for name, kind in kinds.items():
            if not isinstance(getattr(self, name), kind):
                part = getattr(self, name)
                wrapped = name == "guide" and isinstance(part, FlowSpec)
                remedy = f"; FlowGuide({shown(part)}) makes one of a flow" if wrapped else ""
                if isinstance(part, type):
                    remedy = f"; {part.__name__}(…) makes one of the class"
                raise FlowvaeError(f"Experiment.{name} = {shown(part)}: must be a {kind[0].__name__} object{remedy}.")
        check_prior("Experiment.prior", self.prior)
        flows = (self.prior, self.decoder.flow if isinstance(self.decoder, FlowDecoder) else None)
        once = [flow for flow in flows if isinstance(flow, FlowSpec) and not flow.twice_differentiable]
        if once and isinstance(self.guide, SemiAmortized) and self.guide.second_order:
            raise FlowvaeError(
                f"Experiment.guide = {shown(self.guide)} with {shown(once[0])}: its training takes gradients of "
                f"gradients, which {type(once[0]).__name__} does not have; set second_order to false, or use another "
                "flow."
            )
        if self.second_stage and isinstance(self.guide, SemiAmortized):
            raise FlowvaeError(
                "Experiment.second_stage with a SemiAmortized guide: its codes follow the prior, so there is no fixed "
                "aggregated posterior to fit one to; use another guide."
            )

    @property
    def earlier(self) -> Experiment | None:
        """The stage whose encoder and decoder the last one takes over; none, if there is only one stage."""
        stage = self.second_stage
        if stage is None:
            return None
        return replace(self, second_stage=stage.before)

    def stages(self) -> Iterator[Experiment]:
        """This experiment and, before it, its earlier stages: last one first."""
        stage: Experiment | None = self
        while stage is not None:
            yield stage
            stage = stage.earlier

    def build(self, data: Dataset) -> ModelGuide:
        """Model and guide of the last stage with initial weights, for data of this kind.

        Raises:
            FlowvaeError: if a part cannot work at this latent size.
        """
        last = self.second_stage.prior if self.second_stage else self.prior
        warn_if_improper(last, self.latent)
        warn_if_slow(last, self.latent, "as a prior")
        with seeded(derive(self.seed, "likelihood")):
            likelihood = data.likelihood.build(data.train)
        with seeded(derive(self.seed, "prior")):
            prior = last.build(self.latent)
        with seeded(derive(self.seed, "decoder")):
            decoder = self.decoder.network(self.latent, data.features)
        with seeded(derive(self.seed, "encoder")):
            trunk, width = self.encoder.trunk(data.features)
        encoder = nn.Sequential(Standardize(likelihood.center, likelihood.unit), trunk)
        model = VAE(prior, decoder, likelihood)
        with seeded(derive(self.seed, "guide")):
            guide = self.guide.guide(encoder, self.latent, width, partial(log_joint, model))
        return ModelGuide(model, guide)

    def run(
        self,
        directory: str | Path,
        *,
        overwrite: bool = False,
        resume: bool = False,
        draws: int | None = None,
        figures: bool = True,
        progress: bool = True,
        first_stage: Path | None = None,
    ) -> Run:
        """Train, measure on the test split, draw figures; everything lands in the directory.

        Where there is a second stage, what comes before it is a run of its own, in a directory inside.

        Args:
            directory: where to; made if it is not there.
            overwrite: delete the files of an earlier run that is there; refused where anything else lies there.
            resume: go on with an interrupted run of the same experiment.
            draws: K of the test NLL; None: 1000 or, with `resume`, as many as the run was started with.
            figures: whether to draw them.
            progress: whether to show progress bars.
            first_stage: a finished run of an earlier stage, which is copied instead of trained again.

        Raises:
            DamagedError: if a file of the run to go on with is damaged.
            FlowvaeError: for a directory that exists, cannot be written or is being written by another process, or
                settings and data that do not fit; before any work.
        """
        directory = as_path(directory)
        if draws is not None:
            check_int_value("draws", draws)
        data = _data_of_run(self, directory / SETTINGS) if resume else self.data.load(self.seed)
        for stage in self.stages():
            training = stage.second_stage.inference if stage.second_stage else stage.inference
            choose_device(training.device)
            training.check_steps(len(data.train))
        if first_stage is not None:
            first_stage = as_path(first_stage)
            self._check_stage(first_stage)
        facts: dict[str, Any] = {"experiment": self.to_dict(), "data": data.identity.as_dict()}
        parts = ("latent", "encoder", "decoder", "prior", "guide")
        named = ", ".join(f"{name} = {shown(getattr(self, name))}" for name in parts)
        with watched(f"Experiment with {named}", "use a smaller latent, or smaller networks and flows"):
            for part in (self.prior, self.guide, self.decoder, self.second_stage and self.second_stage.prior):
                check_own_flow(part, self.latent)
            pair = self.build(data)
        if draws is not None:
            check_draws(draws, data.test, self.latent)
        for stage in self.stages():
            stage._check_batches(stage.second_stage.inference if stage.second_stage else stage.inference, data)
        kept = [path for path in (getattr(self.data, "path", None), first_stage) if path is not None]
        self._check_place(directory, overwrite, resume, kept)
        with writing(directory):
            self._check_place(directory, overwrite, resume, kept)  # nobody else can change it now
            draws = draws or self._draws_before(directory, resume)
            facts["draws"] = draws
            return self._write(directory, data, pair, facts, resume, draws, figures, progress, first_stage)

    def _draws_before(self, directory: Path, resume: bool) -> int:
        """K that the run to go on with was started with: its last checkpoint or that of an earlier stage says it."""
        if resume and (directory / CHECKPOINT).is_file():
            return load_checkpoint(directory / CHECKPOINT)[1]["settings"].get("draws", DRAWS)
        if resume and self.second_stage and (earlier := self.earlier):
            return earlier._draws_before(directory / self.second_stage.follows, resume)
        return DRAWS

    def _write(
        self,
        directory: Path,
        data: Dataset,
        pair: ModelGuide,
        facts: dict[str, Any],
        resume: bool,
        draws: int,
        figures: bool,
        progress: bool,
        first_stage: Path | None,
    ) -> Run:
        """Train, measure and draw, in a directory that has been checked and locked."""
        delete_leftovers(directory)
        if not resume:
            delete_run(directory)
            self.to_yaml(directory / SETTINGS)
        self._store_place(directory)
        checkpoint, history, metrics = (directory / name for name in (CHECKPOINT, HISTORY, METRICS))
        if not (checkpoint.is_file() and history.is_file()):
            for file in (metrics, history):
                file.unlink(missing_ok=True)  # of weights that training will replace
        elif metrics.is_file():
            read_metrics(metrics, checkpoint_digest(checkpoint))  # raises where it is damaged
        if checkpoint.is_file():
            stored = load_checkpoint(checkpoint)[1]["settings"]
            if not _changes(self, stored["experiment"]) and stored["data"]["sha256"] == data.identity.sha256:
                facts = stored  # it goes on although its data have moved, or on another device
        second = self.second_stage
        if second and (earlier := self.earlier):
            before = earlier._run_before(directory / second.follows, first_stage, draws, figures, progress)
            load_stage_weights(pair, before.pair, prior=second.before is not None)
        with freeze_except_prior(pair) if second and not second.fine_tune else nullcontext():
            fitted = fit(
                pair.model,
                pair.guide,
                data.train,
                data.valid,
                second.inference if second else self.inference,
                # fresh noise: not that of the stage before
                seed=derive(self.seed, second.follows) if second else self.seed,
                checkpoint=checkpoint,
                facts=facts,
                progress=progress,
            )
        write_table(history, fitted.history)
        run = Run(directory, self, data, pair, checkpoint_digest(checkpoint))
        run.evaluate(draws=draws, progress=progress)
        if figures:
            draw_figures(pair.model, pair.guide, data, fitted.history, directory / "figures", self.seed)
        return run

    def _check_batches(self, training: Training, data: Dataset) -> None:
        """Refuse draws of which one batch does not fit into memory: codes, the decoder's layers and its output."""
        decoder = self.decoder.mlp if isinstance(self.decoder, FlowDecoder) else self.decoder
        numbers = self.latent + sum(decoder.hidden_features) + data.features
        rows = min(training.batch_size, len(data.train))
        for name, draws in (("particles", rows * training.particles), ("validation_draws", training.validation_draws)):
            check_memory(
                f"inference.{name} = {getattr(training, name)}",
                draws * numbers * data.train.element_size(),
                f"use fewer {name.replace('_', ' ')}",
            )

    def _check_stage(self, finished: Path) -> None:
        """Refuse a finished run that is none of the earlier stages."""
        experiment = load(finished).experiment
        if not any(same_anywhere(experiment, stage) for stage in list(self.stages())[1:]):
            raise FlowvaeError(f"first_stage = {finished}: is the run of another experiment than an earlier stage.")

    def _run_before(self, directory: Path, finished: Path | None, draws: int, figures: bool, progress: bool) -> Run:
        """This experiment as the stage before another: loaded, copied, gone on with, or trained."""
        if finished is not None and not directory.exists() and same_anywhere(load(finished).experiment, self):
            copy_run(finished, directory)
        started = directory.exists() and not (directory.is_dir() and is_empty(directory))
        if started:
            try:
                changed = _changes(self, Experiment.from_yaml(directory / SETTINGS).to_dict())
            except FlowvaeError as error:
                raise DamagedError(str(error)) from None
            if changed:
                raise DamagedError(
                    f"{directory}: holds another experiment than the stage before ({', '.join(changed)}); move it "
                    "elsewhere, and the stage is trained again."
                )
            with writing(directory):
                self._store_place(directory)
        if is_finished(directory):
            return load(directory)
        return self.run(
            directory,
            resume=started,
            draws=draws,
            figures=figures,
            progress=progress,
            first_stage=finished if self.second_stage else None,
        )

    def _store_place(self, directory: Path) -> None:
        """Let experiment.yaml say where the data are now and on what it computes, which may change."""
        if Experiment.from_yaml(directory / SETTINGS) != self:
            self.to_yaml(directory / SETTINGS)

    def _check_place(self, directory: Path, overwrite: bool, resume: bool, kept: list[Path]) -> None:
        """Refuse to touch what is in the directory unless asked to, and to delete what no run has written."""
        if resume:
            if changed := _changes(self, Experiment.from_yaml(directory / SETTINGS).to_dict()):
                raise FlowvaeError(
                    f"{directory}: holds another experiment ({', '.join(changed)}); go on with the settings of its "
                    "experiment.yaml, or name another directory."
                )
            check_files(directory)
            return
        if directory.exists() and not directory.is_dir():
            raise FlowvaeError(f"{directory}: is a file; name a directory.")
        if not directory.exists() or is_empty(directory):
            return
        if not overwrite:
            ways = ["name another directory"]
            ways += ["go on with it (--resume)"] if (directory / SETTINGS).is_file() else []
            ways += ["delete it (--overwrite)"] if holds_run(directory) else []
            raise FlowvaeError(f"{directory}: exists; {', or '.join(ways)}.")
        if other := next(foreign(directory), None):
            raise FlowvaeError(
                f"{directory}: is not a run alone, so it is not deleted: no run has written {other}; move that, or "
                "name another directory."
            )
        if not holds_run(directory):
            raise FlowvaeError(f"{directory}: is not a run of this program, so it is not deleted; delete it yourself.")
        with suppress(FileNotFoundError):  # the working directory may have been deleted
            for inside in (*kept, Path()):
                if inside.resolve().is_relative_to(directory.resolve()):
                    raise FlowvaeError(
                        f"{directory}: {inside.resolve()} is in use and lies in it, so it is not deleted; name another "
                        "directory."
                    )

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries and values, which `from_dict` reads.

        Raises:
            FlowvaeError: for a part that would not be read back as what it is, such as one of a class of your own.
        """
        if type(self) is not Experiment:
            raise FlowvaeError(f"{type(self).__name__}: would be read back as an Experiment; use Experiment itself.")
        plain = {f.name: to_plain(getattr(self, f.name)) for f in fields(self)}
        for name, value in plain.items():
            part = getattr(self, name)
            try:
                back = _part(name, value)
                reason = "" if back == part else f"would be read back as {shown(back)}"
            except FlowvaeError as error:
                reason = f"could not be read back ({str(error).rstrip('.')})"
            if reason:
                raise FlowvaeError(
                    f"Experiment.{name} = {shown(part)}: {reason}, and a run of it could not be loaded; use the "
                    "classes of flowvae and flows of your own that have a name (register_flow)."
                )
        return plain

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Experiment:
        """An experiment from plain dictionaries; what is not named has its default.

        Raises:
            FlowvaeError: for unknown families or settings.
        """
        if not isinstance(plain, dict):
            raise FlowvaeError(f"experiment: {shown(plain)}; must be settings by name.")
        return build_spec("experiment", cls, {name: _part(name, value) for name, value in plain.items()})

    def to_yaml(self, path: str | Path) -> None:
        """Write the experiment as YAML."""
        with atomic_write(as_path(path)) as temporary:
            temporary.write_text(yaml.safe_dump(self.to_dict(), sort_keys=False), encoding="utf-8")

    @classmethod
    def from_yaml(cls, path: str | Path) -> Experiment:
        """Read an experiment from YAML.

        Raises:
            FlowvaeError: for a missing file, and anything that `read_yaml` or `from_dict` refuses.
        """
        path = as_path(path)
        if path.name == SETTINGS and not path.exists() and (path.parent / CHECKPOINT).is_file():
            raise FlowvaeError(f"{path}: is missing; restore it, or train again (--overwrite).")
        plain = read_yaml(path)
        try:
            return cls.from_dict(plain)
        except FlowvaeError as error:
            raise FlowvaeError(f"{one_line(path)}: {error}") from None


def _part(name: str, plain: Any) -> Any:
    """A part of an experiment from plain values, or a plain setting as it is."""
    if name == "second_stage" and plain is not None:
        return SecondStage.from_plain(plain)
    return from_plain(name, plain) if name in ("data", "prior", "guide", "encoder", "decoder", "inference") else plain


def load(directory: str | Path) -> Run:
    """A run from its directory, with its best weights; one that is not finished with an `UnfinishedRunWarning`.

    Where its data lie and on what it computes may be changed in its experiment.yaml (`data.path`,
    `inference.device`): the data are known by their checksum. A run of a device that is not here is opened on another
    one, with an `OtherDeviceWarning`.

    Raises:
        DamagedError: if its checkpoint is missing or damaged, history.csv or metrics.json has been edited, or
            experiment.yaml has been changed in anything else.
        FlowvaeError: if it is not a run, or its data are not what they were.
    """
    directory = as_path(directory)
    file = directory / SETTINGS
    experiment = Experiment.from_yaml(file)
    finished = (directory / HISTORY).is_file()
    if finished and not (directory / CHECKPOINT).is_file():
        raise DamagedError(f"{directory / CHECKPOINT}: no such checkpoint; restore it, or train again (--overwrite).")
    tensors, facts = load_checkpoint(directory / CHECKPOINT)
    stored = facts["settings"]
    if changed := _changes(experiment, stored["experiment"]):
        raise DamagedError(
            f"{directory}: experiment.yaml does not match its checkpoint in {', '.join(changed)}; "
            "restore the file, or train the new settings into another directory."
        )
    data = _data_of_run(experiment, file)
    if stored["data"]["sha256"] != data.identity.sha256:
        raise FlowvaeError(
            f"{directory}: was trained on {one_line(stored['data'])}, but the data are now {data.identity.as_dict()}."
        )
    if finished:
        check_history(directory, facts)
    else:
        warnings.warn(
            f"{directory}: its training has not ended; these are its best weights so far. Go on with it (--resume).",
            UnfinishedRunWarning,
            stacklevel=2,
        )
    with warnings.catch_warnings():
        # said when it was trained
        for said in (SlowDirectionWarning, ImproperDensityWarning, EstimatedDensityWarning):
            warnings.simplefilter("ignore", said)
        pair = experiment.build(data)
    try:
        device = choose_device(experiment.inference.device)
    except FlowvaeError as error:
        device = choose_device("auto")
        warnings.warn(f"{directory}: {error} It is opened on {device}.", OtherDeviceWarning, stacklevel=2)
    weights = best_weights(tensors)
    for name, part in pair._asdict().items():
        part.load_state_dict(weights[name])
        part.to(device)
    run = Run(directory, experiment, data, pair, facts["sha256"])
    run.metrics  # noqa: B018  (raises where they are damaged)
    return run


def _data_of_run(experiment: Experiment, file: Path) -> Dataset:
    """The data of a run, whose experiment.yaml says where they are."""
    try:
        return experiment.data.load(experiment.seed)
    except FlowvaeError as error:
        path = getattr(experiment.data, "path", None)
        if path is None or Path(path).exists():
            raise
        raise FlowvaeError(f"{error} Where the data have moved, correct data.path in {file}.") from None


def same_anywhere(one: Experiment, other: Experiment) -> bool:
    """Whether two experiments are the same, but for the place of the data and the device."""
    return _anywhere(one) == _anywhere(other)


def _changes(experiment: Experiment, stored: dict[str, Any]) -> list[str]:
    """What differs between an experiment and the one of a checkpoint, but for what belongs to a machine."""
    trained = Experiment.from_dict(stored)  # settings that are newer than the run have their defaults
    now, then = _anywhere(experiment), _anywhere(trained)
    return [name for name, value in now.items() if then[name] != value]


def _anywhere(experiment: Experiment) -> dict[str, Any]:
    """The settings without the place of the data and the device, which are of one machine."""
    plain = experiment.to_dict()
    plain["data"].pop("path", None)
    for stage in (plain, plain["second_stage"]):
        if stage:
            stage["inference"].pop("device")
    return plain


def fit_prior(
    run: str | Path,
    stage: SecondStage,
    directory: str | Path,
    *,
    overwrite: bool = False,
    draws: int = 1000,
    figures: bool = True,
    progress: bool = True,
) -> Run:
    """Fit another prior to the aggregated posterior of a finished run, which is copied and not touched.

    Args:
        run: directory of the run.
        stage: the prior and how to fit it.
        directory: where to; the run is copied into it. An interrupted fit goes on as any run does, with `resume`.
        overwrite: delete the files of an earlier run that is there; refused where anything else lies there.
        draws: K of the test NLL.
        figures: whether to draw them.
        progress: whether to show progress bars.

    Raises:
        FlowvaeError: if it is not a finished run, or has two stages already.
    """
    run, directory = as_path(run), as_path(directory)
    if (run / SETTINGS).is_file() and not is_finished(run):
        raise FlowvaeError(f"{run}: is not finished; go on with it first (--resume).")
    first = load(run).experiment
    if first.second_stage is not None:
        raise FlowvaeError(f"{run}: has two stages already; fit the prior to its first, {run / 'first-stage'}.")
    if run.resolve().is_relative_to(directory.resolve()) or directory.resolve().is_relative_to(run.resolve()):
        raise FlowvaeError(f"{directory}: is inside {run} or around it; name another directory.")
    # where the new run computes; the earlier device may not be here
    first = replace(first, inference=replace(first.inference, device=stage.inference.device))
    return replace(first, second_stage=stage).run(
        directory, overwrite=overwrite, draws=draws, figures=figures, progress=progress, first_stage=run
    )
