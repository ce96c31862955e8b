"""Experiments: all parts of a VAE in one frozen object, with a YAML form."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from torch import Size

from flowvae.core.errors import FlowvaeError, check_int, one_line, plain_number, shown
from flowvae.core.files import as_path, atomic_write
from flowvae.core.parts import Condition, GuideSpec, NetworkSpec, PriorSpec
from flowvae.core.yaml_reader import read_yaml
from flowvae.data import DataSpec, Digits, as_data
from flowvae.experiments.directory import CHECKPOINT, SETTINGS
from flowvae.experiments.serialization import build_spec, read_setting, to_plain
from flowvae.experiments.stages import SecondStage
from flowvae.flows import FlowSpec
from flowvae.guides import Gaussian
from flowvae.inference import Training
from flowvae.models import StandardNormal, check_prior
from flowvae.networks import MLP, as_network

if TYPE_CHECKING:
    from flowvae.data import Dataset
    from flowvae.experiments.assemble import ModelGuide
    from flowvae.experiments.run import Run

__all__ = ["Experiment", "changed_settings", "same_anywhere"]

LARGEST_SEED = 2**32 - 1  # the largest that NumPy's generators take; scikit-learn draws splits with them
LARGEST_LATENT = 2**20


@dataclass(frozen=True)
class Experiment:
    """A VAE with its data and training; replace a part with `dataclasses.replace`.

    Args:
        latent: size of the code, or its shape, such as (4, 7, 7), for networks and image flows that use one.
        seed: seed of split, initial weights, order of batches and noise.
        encoder: network from data to the features that the guide head reads; also any `nn.Module`.
        decoder: network from code to the parameters of the likelihood; also any `nn.Module`.
        inference: settings of the training.
        data: data set, with its likelihood; also an array, a tensor, a data frame or a torch data set.
        prior: p(z): `StandardNormal`, `Mixture`, any flow, or your own `PriorSpec`.
        guide: q(z | x): `Gaussian`, `FullRank`, `FlowGuide`, `SemiAmortized`, or your own `GuideSpec`.
        condition: the condition of the model; None: no condition.
        second_stage: another prior, fitted after the training of the VAE; None: no second stage.

    Raises:
        FlowvaeError: for an invalid setting, and parts that cannot be combined.

    >>> from dataclasses import replace
    >>> from flowvae import MAF
    >>> replace(Experiment(), prior=MAF(transforms=5)).prior
    MAF(transforms=5, hidden_features=(32,))
    """

    latent: int | tuple[int, ...] = 8
    seed: int = 0
    encoder: NetworkSpec = field(default_factory=MLP)
    decoder: NetworkSpec = field(default_factory=MLP)
    inference: Training = field(default_factory=Training)
    data: DataSpec = field(default_factory=Digits)
    prior: PriorSpec = field(default_factory=StandardNormal)
    guide: GuideSpec = field(default_factory=Gaussian)
    condition: Condition | None = None
    second_stage: SecondStage | None = None

    def __post_init__(self) -> None:
        self._check_latent()
        check_int(self, "seed", least=0, most=LARGEST_SEED)
        for name in ("encoder", "decoder"):
            object.__setattr__(self, name, as_network(f"Experiment.{name}", getattr(self, name)))
        object.__setattr__(self, "data", as_data(self.data))
        kinds: dict[str, tuple[type, ...]] = {
            "inference": (Training,),
            "guide": (GuideSpec,),
            "condition": (Condition, type(None)),
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
        self._check_combination()

    def _check_latent(self) -> None:
        if isinstance(self.latent, list | tuple | Size):
            object.__setattr__(self, "latent", tuple(map(plain_number, self.latent)))
            sides = self.latent
            if (
                not sides
                or any(type(side) is not int or side < 1 for side in sides)
                or math.prod(sides) > LARGEST_LATENT
            ):
                raise FlowvaeError(
                    f"Experiment.latent = {shown(self.latent)}: must be a whole number, or a shape of whole numbers of "
                    f"{LARGEST_LATENT} values at most, such as (4, 7, 7)."
                )
        else:
            check_int(self, "latent")

    def _check_combination(self) -> None:
        """Raise an error for parts that cannot be combined."""
        if getattr(self.guide, "second_order", False):
            # second-order gradients go through prior and decoder
            inside = [self.prior, *(getattr(self.decoder, f.name) for f in fields(self.decoder))]  # type: ignore[arg-type]
            once = [part for part in inside if not getattr(part, "twice_differentiable", True)]
            if once:
                raise FlowvaeError(
                    f"Experiment.guide = {shown(self.guide)} with {shown(once[0])}: its training takes gradients of "
                    f"gradients, which {type(once[0]).__name__} does not have; set second_order to false, or use "
                    "another flow."
                )
        if self.second_stage and self.guide.follows_model:
            raise FlowvaeError(
                f"Experiment.second_stage with a {type(self.guide).__name__} guide: its codes follow the prior, so "
                "there is no fixed aggregated posterior to fit one to; use another guide."
            )
        if why := self.prior.why_not_joint:
            raise FlowvaeError(
                f"Experiment.prior = {shown(self.prior)}: cannot be trained jointly: {why}. Fit it in a second stage, "
                "SecondStage(…) or flowvae fit-prior."
            )
        if self.second_stage and self.second_stage.distill and not self.prior.tractable:
            raise FlowvaeError(
                f"SecondStage.distill = {self.second_stage.distill} with the prior {shown(self.prior)}: its density is "
                "an integral, so it cannot be a teacher; leave distill out, which fits the codes."
            )
        for prior in (self.prior, self.last_prior):  # of every stage
            if self.guide.follows_model and not prior.tractable:
                raise FlowvaeError(
                    f"Experiment.guide = {shown(self.guide)} with the prior {shown(prior)}: its steps need log p(z), "
                    "which is an integral over latent variables; use another guide or prior."
                )
            if self.guide.follows_model and prior.follows_guide:
                raise FlowvaeError(
                    f"Experiment.guide = {shown(self.guide)} with the prior {shown(prior)}: each is computed from the "
                    "other's density; use another guide or prior."
                )
            if self.condition is not None and self.condition.prior and not prior.conditional:
                raise FlowvaeError(
                    f"Experiment.condition with the prior {shown(prior)}: it cannot depend on a condition; use "
                    "the prior mixture or a flow, or set condition.prior to false."
                )

    @property
    def latent_shape(self) -> Size:
        """The shape of a code: (latent,) if `latent` is a number."""
        return Size((self.latent,)) if isinstance(self.latent, int) else Size(self.latent)

    @property
    def last_prior(self) -> PriorSpec:
        """The prior of the last stage."""
        return self.second_stage.prior if self.second_stage else self.prior

    @property
    def last_training(self) -> Training:
        """The training settings of the last stage."""
        return self.second_stage.inference if self.second_stage else self.inference

    @property
    def earlier(self) -> Experiment | None:
        """The previous stage, whose encoder and decoder the last one takes over; None if there is only one."""
        stage = self.second_stage
        return None if stage is None else replace(self, second_stage=stage.before)

    def stages(self) -> list[Experiment]:
        """Return this experiment and its earlier stages, the last stage first."""
        found, stage = [self], self.earlier
        while stage is not None:
            found.append(stage)
            stage = stage.earlier
        return found

    def build(self, data: Dataset) -> ModelGuide:
        """Build model and guide of the last stage, with initial weights, for a data set; see `flowvae.build`.

        Raises:
            FlowvaeError: for data that are not a `Dataset`, and parts that cannot be built at this latent size.
        """
        from flowvae.experiments.assemble import build

        return build(self, data)

    def run(self, directory: str | Path | None = None, **settings: Any) -> Run:
        """Train, measure on the test split and draw figures: `train(experiment, directory, …)`."""
        from flowvae.experiments.train import train

        return train(self, directory, **settings)

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain dictionaries and values, which `from_dict` reads.

        Raises:
            FlowvaeError: for a part that `from_dict` would not restore, such as one of a class without a name.
        """
        if type(self) is not Experiment:
            raise FlowvaeError(f"{type(self).__name__}: would be read back as an Experiment; use Experiment itself.")
        plain: dict[str, Any] = {}
        for f in fields(self):
            part = getattr(self, f.name)
            try:
                plain[f.name] = to_plain(part)
            except FlowvaeError as error:
                raise FlowvaeError(f"Experiment.{f.name}: {error}") from None
            try:
                back = read_setting(Experiment, f.name, plain[f.name], f.name)
                reason = "" if back == part else f"would be read back as {shown(back)}"
            except FlowvaeError as error:
                reason = f"could not be read back ({str(error).rstrip('.')})"
            if reason:
                raise FlowvaeError(f"Experiment.{f.name} = {shown(part)}: {reason}.")
        return plain

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Experiment:
        """Create an experiment from plain dictionaries; settings that are left out have their defaults.

        Raises:
            FlowvaeError: for unknown families or settings.
        """
        if not isinstance(plain, dict):
            raise FlowvaeError(f"experiment: {shown(plain)}; must be settings by name.")
        experiment: Experiment = build_spec("experiment", cls, plain)
        return experiment

    def to_yaml(self, path: str | Path) -> None:
        """Write the experiment as YAML."""
        with atomic_write(as_path(path)) as temporary:
            temporary.write_text(yaml.safe_dump(self.to_dict(), sort_keys=False), encoding="utf-8")

    @classmethod
    def from_yaml(cls, path: str | Path) -> Experiment:
        """Read an experiment from YAML.

        Raises:
            FlowvaeError: for a missing file, invalid YAML, and unknown families or settings.
        """
        path = as_path(path)
        if path.name == SETTINGS and not path.exists() and (path.parent / CHECKPOINT).is_file():
            raise FlowvaeError(f"{path}: is missing; restore it, or train again (--overwrite).")
        plain = read_yaml(path)
        try:
            return cls.from_dict(plain)
        except FlowvaeError as error:
            raise FlowvaeError(f"{one_line(path)}: {error}") from None


def same_anywhere(one: Experiment, other: Experiment) -> bool:
    """Whether two experiments are equal except for the location of the data and the device."""
    return _anywhere(one) == _anywhere(other)


def changed_settings(experiment: Experiment, stored: dict[str, Any], extended: bool = False) -> list[str]:
    """Return the names of settings that differ from those of a checkpoint, except data locations and devices.

    Args:
        experiment: the settings.
        stored: plain settings of the checkpoint.
        extended: whether the last stage may be trained longer; settings in `Training.extendable` may then differ there.
    """
    trained = Experiment.from_dict(stored)  # settings introduced after the run get their defaults
    now, then = _anywhere(experiment, extended), _anywhere(trained, extended)
    return [name for name, value in now.items() if then[name] != value]


def _anywhere(experiment: Experiment, extended: bool = False) -> dict[str, Any]:
    """Return the settings without data locations and devices, which belong to one machine."""
    plain, second = experiment.to_dict(), experiment.second_stage
    for name in experiment.data.paths:
        plain["data"].pop(name)
    for stage in (plain, plain["second_stage"]):
        if stage:
            stage["inference"].pop("device")
    if extended and (second is None or second.before is None):  # else an earlier stage has the same settings
        for name in Training.extendable:
            (plain["second_stage"] or plain)["inference"].pop(name, None)
    return plain
