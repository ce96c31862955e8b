"""An experiment: every part of a VAE named in one frozen object, which trains, measures and draws itself."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from flowvae.data import Dataset, DataSpec, Digits
from flowvae.errors import (
    DamagedError,
    EstimatedDensityWarning,
    FlowvaeError,
    ImproperDensityWarning,
    OtherDeviceWarning,
    SlowDirectionWarning,
    UnfinishedRunWarning,
    whole,
    whole_number,
)
from flowvae.evaluation import draw_figures
from flowvae.families import check_own_flow
from flowvae.files import atomic_write, write_table
from flowvae.flows import FlowSpec
from flowvae.flows.spec import warn_if_slow
from flowvae.guides import Gaussian, GuideSpec, SemiAmortized
from flowvae.inference import Inference, best_weights, choose_device, fit, load_checkpoint, log_joint
from flowvae.models import VAE, FlowDecoder, PriorSpec, StandardNormal, check_prior, warn_if_improper
from flowvae.networks import MLP, Standardize
from flowvae.plain import build_spec, from_plain, to_plain
from flowvae.run import Pair, Run, is_finished
from flowvae.second_stage import SecondStage, held, take_over
from flowvae.seeds import derive, seeded

__all__ = ["Experiment", "fit_prior", "load"]

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
    inference: Inference = field(default_factory=Inference)
    data: DataSpec = field(default_factory=Digits)
    prior: PriorSpec = field(default_factory=StandardNormal)
    guide: GuideSpec = field(default_factory=Gaussian)
    second_stage: SecondStage | None = None

    def __post_init__(self) -> None:
        whole(self, "latent")
        whole(self, "seed", least=0, most=LARGEST_SEED)
        kinds: dict[str, tuple[type, ...]] = {
            "encoder": (MLP,),
            "decoder": (MLP, FlowDecoder),
            "inference": (Inference,),
            "data": (DataSpec,),
            "guide": (GuideSpec,),
            "second_stage": (SecondStage, type(None)),
        }
        for name, kind in kinds.items():
            if not isinstance(getattr(self, name), kind):
                wrapped = name == "guide" and isinstance(self.guide, FlowSpec)
                remedy = f"; FlowGuide({self.guide!r}) makes one of a flow." if wrapped else "."
                raise FlowvaeError(
                    f"Experiment.{name} = {getattr(self, name)!r}: must be a {kind[0].__name__} object{remedy}"
                )
        check_prior("Experiment.prior", self.prior)
        flows = (self.prior, self.decoder.flow if isinstance(self.decoder, FlowDecoder) else None)
        once = [flow for flow in flows if isinstance(flow, FlowSpec) and not flow.twice_differentiable]
        if once and isinstance(self.guide, SemiAmortized) and self.guide.second_order:
            raise FlowvaeError(
                f"Experiment.guide = {self.guide!r} with {once[0]!r}: its training takes gradients of gradients, which "
                f"{type(once[0]).__name__} does not have; set second_order to false, or use another flow."
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

    def build(self, data: Dataset) -> Pair:
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
        return Pair(model, guide)

    def run(
        self,
        directory: str | Path,
        *,
        overwrite: bool = False,
        resume: bool = False,
        draws: int = 1000,
        figures: bool = True,
        progress: bool = True,
        first_stage: Path | None = None,
    ) -> Run:
        """Train, measure on the test split, draw figures; everything lands in the directory.

        Where there is a second stage, what comes before it is a run of its own, in a directory inside.

        Args:
            directory: where to; made if it is not there.
            overwrite: delete an earlier run that is there.
            resume: go on with an interrupted run of the same experiment.
            draws: K of the test NLL.
            figures: whether to draw them.
            progress: whether to show progress bars.
            first_stage: a finished run of an earlier stage, which is copied instead of trained again.

        Raises:
            FlowvaeError: for a directory that exists, or settings and data that do not fit; before any work.
        """
        directory = Path(directory)
        whole_number("draws", draws)
        data = self.data.load(self.seed)
        for stage in self.stages():
            training = stage.second_stage.inference if stage.second_stage else stage.inference
            choose_device(training.device)
            training.check_steps(len(data.train))
        if first_stage is not None:
            self._check_stage(first_stage)
        facts = {"experiment": self.to_dict(), "data": data.identity.as_dict()}
        for part in (self.prior, self.guide, self.decoder, self.second_stage and self.second_stage.prior):
            check_own_flow(part, self.latent)
        pair = self.build(data)
        self._prepare(directory, overwrite, resume)
        if not (directory / "history.csv").is_file():
            (directory / "metrics.json").unlink(missing_ok=True)  # of weights that training will replace
        checkpoint = directory / "checkpoint.safetensors"
        if checkpoint.exists():
            stored = load_checkpoint(checkpoint)[1]["settings"]
            if not _changes(self, stored["experiment"]) and stored["data"]["sha256"] == data.identity.sha256:
                facts = stored  # it goes on although its data have moved, or on another device
        second = self.second_stage
        if second and (earlier := self.earlier):
            before = earlier._run_before(directory / second.follows, first_stage, draws, figures, progress)
            take_over(pair, before.pair, prior=second.before is not None)
        with held(pair) if second and not second.fine_tune else nullcontext():
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
        write_table(directory / "history.csv", fitted.history)
        run = Run(directory, self, data, pair)
        run.evaluate(draws=draws, progress=progress)
        if figures:
            draw_figures(pair.model, pair.guide, data, fitted.history, directory / "figures", self.seed)
        return run

    def _check_stage(self, finished: Path) -> None:
        """Refuse a finished run that is none of the earlier stages."""
        if load(finished).experiment not in list(self.stages())[1:]:
            raise FlowvaeError(f"first_stage = {finished}: is the run of another experiment than an earlier stage.")

    def _run_before(self, directory: Path, finished: Path | None, draws: int, figures: bool, progress: bool) -> Run:
        """This experiment as the stage before another: loaded, copied, gone on with, or trained."""
        if finished is not None and not directory.exists() and load(finished).experiment == self:
            copying = directory.with_name(f".{directory.name}.tmp")
            shutil.rmtree(copying, ignore_errors=True)
            shutil.copytree(finished, copying, ignore=shutil.ignore_patterns("*.tmp"))
            copying.rename(directory)
        if is_finished(directory):
            run = load(directory)
            if run.experiment != self:
                raise FlowvaeError(f"{directory}: holds another experiment than the stage before; delete it.")
            return run
        return self.run(
            directory,
            resume=(directory / "experiment.yaml").is_file(),
            draws=draws,
            figures=figures,
            progress=progress,
            first_stage=finished if self.second_stage else None,
        )

    def _prepare(self, directory: Path, overwrite: bool, resume: bool) -> None:
        """Make the directory and name the experiment in it; refuse to touch what is there unless asked."""
        file = directory / "experiment.yaml"
        if resume:
            stored = Experiment.from_yaml(file)
            if stored != self:
                raise FlowvaeError(f"{directory}: holds another experiment; resume it with its own settings.")
            return
        if directory.exists() and not directory.is_dir():
            raise FlowvaeError(f"{directory}: is a file; name a directory.")
        if directory.exists() and any(directory.iterdir()):
            if not overwrite:
                raise FlowvaeError(
                    f"{directory}: exists; name another directory, or go on with it (--resume) or delete it "
                    "(--overwrite)."
                )
            if not file.is_file():
                raise FlowvaeError(f"{directory}: is not a run of this program, so it is not deleted.")
            shutil.rmtree(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self.to_yaml(file)

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries and values, which `from_dict` reads."""
        return {f.name: to_plain(getattr(self, f.name)) for f in fields(self)}

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Experiment:
        """An experiment from plain dictionaries; what is not named has its default.

        Raises:
            FlowvaeError: for unknown families or settings.
        """
        settings = dict(plain)
        for kind in ("data", "prior", "guide", "encoder", "decoder", "inference"):
            if kind in settings:
                settings[kind] = from_plain(kind, settings[kind])
        if settings.get("second_stage") is not None:
            settings["second_stage"] = SecondStage.from_plain(settings["second_stage"])
        return build_spec("experiment", cls, settings)

    def to_yaml(self, path: str | Path) -> None:
        """Write the experiment as YAML."""
        with atomic_write(Path(path)) as temporary:
            temporary.write_text(yaml.safe_dump(self.to_dict(), sort_keys=False))

    @classmethod
    def from_yaml(cls, path: str | Path) -> Experiment:
        """Read an experiment from YAML.

        Raises:
            FlowvaeError: for a missing file, YAML with tags, or anything that `from_dict` refuses.
        """
        path = Path(path)
        if not path.is_file():
            raise FlowvaeError(f"{path}: no such file; a run keeps its settings in experiment.yaml.")
        try:
            plain = yaml.safe_load(path.read_text())
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split())
            raise FlowvaeError(
                f"{path}: not plain YAML ({reason}); tags such as !!python are refused, use plain values."
            ) from None
        if not isinstance(plain, dict):
            raise FlowvaeError(f"{path}: must hold settings by name, such as 'latent: 8'.")
        try:
            return cls.from_dict(plain)
        except FlowvaeError as error:
            raise FlowvaeError(f"{path}: {error}") from None


def load(directory: str | Path) -> Run:
    """A run from its directory, with its best weights; one that is not finished with an `UnfinishedRunWarning`.

    Where its data lie and on what it computes may be changed in its experiment.yaml (`data.path`,
    `inference.device`): the data are known by their checksum. A run of a device that is not here is opened on another
    one, with an `OtherDeviceWarning`.

    Raises:
        DamagedError: if its checkpoint is damaged, or experiment.yaml has been changed in anything else.
        FlowvaeError: if it is not a run, or its data are not what they were.
    """
    directory = Path(directory)
    file = directory / "experiment.yaml"
    experiment = Experiment.from_yaml(file)
    tensors, facts = load_checkpoint(directory / "checkpoint.safetensors")
    stored = facts["settings"]
    if changed := _changes(experiment, stored["experiment"]):
        raise DamagedError(
            f"{directory}: experiment.yaml does not match its checkpoint in {', '.join(changed)}; "
            "restore the file, or train the new settings into another directory."
        )
    try:
        data = experiment.data.load(experiment.seed)
    except FlowvaeError as error:
        path = getattr(experiment.data, "path", None)
        if path is None or Path(path).exists():
            raise
        raise FlowvaeError(f"{error} Where the data have moved, correct data.path in {file}.") from None
    if stored["data"]["sha256"] != data.identity.sha256:
        raise FlowvaeError(
            f"{directory}: was trained on {stored['data']}, but the data are now {data.identity.as_dict()}."
        )
    if not (directory / "history.csv").is_file():
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
    return Run(directory, experiment, data, pair)


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
        overwrite: delete an earlier run that is there.
        draws: K of the test NLL.
        figures: whether to draw them.
        progress: whether to show progress bars.

    Raises:
        FlowvaeError: if it is not a finished run, or has two stages already.
    """
    run, directory = Path(run), Path(directory)
    if (run / "experiment.yaml").is_file() and not is_finished(run):
        raise FlowvaeError(f"{run}: is not finished; go on with it first (--resume).")
    first = load(run).experiment
    if first.second_stage is not None:
        raise FlowvaeError(f"{run}: has two stages already; fit the prior to its first, {run / 'first-stage'}.")
    if run.resolve().is_relative_to(directory.resolve()) or directory.resolve().is_relative_to(run.resolve()):
        raise FlowvaeError(f"{directory}: is inside {run} or around it; name another directory.")
    return replace(first, second_stage=stage).run(
        directory, overwrite=overwrite, draws=draws, figures=figures, progress=progress, first_stage=run
    )
