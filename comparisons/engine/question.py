"""A question is its arms as specs, a prediction, and a measure that is fixed before the first run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from flowvae.core.errors import FlowvaeError, check_int, nearest, shown, shown_path
from flowvae.data import Digits, Pinwheel, Sprites, StaticMNIST
from flowvae.evaluation import AnnealedHMC, Effort
from flowvae.experiments.experiment import Experiment
from flowvae.experiments.run import Run
from flowvae.inference import Training
from flowvae.networks import MLP

__all__ = ["BASES", "PRESETS", "Preset", "Question", "flow_size", "preset_of"]


@dataclass(frozen=True)
class Preset:
    """How much work a question may cost.

    Args:
        seeds: how many, 2 or more.
        epochs: the most of a run.
        draws: K of the test NLL.
        patience: how many times as many epochs as the data set's base has are allowed, and as many without
            improvement; the most stays the most.
        effort: size of the measures that refine guides or run chains.
    """

    seeds: int
    epochs: int
    draws: int
    patience: int = 1
    effort: Effort = field(default_factory=Effort)

    def __post_init__(self) -> None:
        check_int(self, "seeds", least=2, most=10_000)  # with one there is no standard error over seeds
        check_int(self, "epochs")
        check_int(self, "draws")
        check_int(self, "patience")

    def label(self, epochs: int) -> str:
        """How a preset that has no name is called, where the longest arm may have so many epochs."""
        return f"{self.seeds}-seeds-{epochs}-epochs-{self.draws}-draws"


PRESETS = {
    # shows which files come out
    "seconds": Preset(seeds=2, epochs=2, draws=20, effort=Effort(4, 10, AnnealedHMC(chains=4, temperatures=5))),
    # for notebooks and tests: shows how it works; two seeds decide nothing
    "minutes": Preset(seeds=2, epochs=30, draws=200, effort=Effort(16, 100, AnnealedHMC(temperatures=50))),
    "hour": Preset(seeds=5, epochs=400, draws=1000),
    "cluster": Preset(seeds=20, epochs=2000, draws=5000, patience=5),
}


def preset_of(preset: str | Preset) -> Preset:
    """A preset by its name; one of your own as it is.

    Raises:
        FlowvaeError: for an unknown name.
    """
    if isinstance(preset, Preset):
        return preset
    if preset not in PRESETS:
        raise FlowvaeError(f"preset {shown(preset)}: {nearest(preset, PRESETS)}")
    return PRESETS[preset]


# what all arms on a data set share
BASES = {
    "digits": Experiment(),
    "pinwheel": Experiment(latent=2, data=Pinwheel(), inference=Training(epochs=300, batch_size=256, patience=40)),
    "sprites": Experiment(
        encoder=MLP((256,)),
        decoder=MLP((256,)),
        data=Sprites(test=1000),
        inference=Training(epochs=40, batch_size=128, learning_rate=3e-3, patience=10),
    ),
    "static-mnist": Experiment(
        latent=40,
        encoder=MLP((300, 300), gated=True),
        decoder=MLP((300, 300), gated=True),
        data=StaticMNIST(),
        inference=Training(epochs=60, batch_size=100, patience=10, validation_draws=1),
    ),
}


def flow_size(base: Experiment) -> tuple[int, tuple[int, ...]]:
    """Transforms and hidden layers of a flow: small on few data, larger than the defaults where data are plenty."""
    return (2, (32,)) if isinstance(base.data, Digits) else (3, (64, 64))


@dataclass(frozen=True)
class Question:
    """What is asked, and how it is to be answered.

    Args:
        name: by which `flowvae compare` knows it.
        text: first line: the question; the rest: its design and what theory predicts, written before the result.
        arms: makes the arms of the base experiment of a data set, by name. "arm@level" is an arm at one level of
            something that all arms vary in, and is compared with arms at the same level.
        baseline: the arm that every other is compared with.
        pairs: further pairs (arm, against) to compare, at each level.
        costly: arms that only the cluster preset runs, because one of their runs costs minutes on a core.
        data: names of the data sets that it is asked on.
        measure: the primary measure, a column of the grid's table.
        unit: of the primary measure.
        lower_is_better: its direction.
        secondary: measures that are reported beside it.
        measures: what each cell is to measure besides the likelihood, by names in `flowvae.evaluation.MEASURES`; list
            metrics that come of it in `secondary` to report them.
        draw: makes further figures, by name, from the arms' runs of the first seed and the table of all runs.
    """

    name: str
    text: str
    arms: Callable[[Experiment], Mapping[str, Experiment]]
    baseline: str
    pairs: tuple[tuple[str, str], ...] = ()
    costly: tuple[str, ...] = ()
    data: tuple[str, ...] = ("digits",)
    measure: str = "nll"
    unit: str = "nats per datum"
    lower_is_better: bool = True
    secondary: tuple[str, ...] = ("elbo",)
    measures: tuple[str, ...] = ()
    draw: Callable[[Mapping[str, Run], pd.DataFrame], dict[str, Figure]] | None = None

    @property
    def asks(self) -> str:
        """The question itself."""
        return self.text.strip().splitlines()[0]

    @property
    def predicts(self) -> str:
        """Its design and its prediction."""
        return "\n".join(self.text.strip().splitlines()[1:]).strip()

    def experiments(self, data: str, preset: str | Preset, path: Path | None = None) -> dict[str, Experiment]:
        """The arms on a data set at a preset, named or your own.

        Args:
            data: name of the data set.
            preset: a name in `PRESETS`, or one of your own.
            path: the file of a data set that is read from one; none: where its class looks for it.

        Raises:
            FlowvaeError: for another data set or preset than those it knows, or a path of data that are no file.
        """
        if data not in self.data:
            raise FlowvaeError(f"{self.name}: is not asked on {shown(data)}; {nearest(data, self.data)}")
        chosen = preset_of(preset)
        base = BASES[data]
        if path is not None:
            if not isinstance(base.data, StaticMNIST):
                raise FlowvaeError(f"path {shown_path(path)}: {data} is not read from a file; leave it out.")
            base = replace(base, data=replace(base.data, path=path))
        left_out = self.costly if chosen != PRESETS["cluster"] else ()
        arms = {name: arm for name, arm in self.arms(base).items() if name not in left_out}
        return {name: _at_most(arm, chosen) for name, arm in arms.items()}

    def contrasts(self, arms: Mapping[str, Experiment]) -> list[tuple[str, str]]:
        """Every pair of arms that is compared."""
        levels = dict.fromkeys("".join(arm.partition("@")[1:]) for arm in arms)
        pairs = [(arm, self.baseline + "".join(arm.partition("@")[1:])) for arm in arms]
        pairs += [(arm + level, against + level) for level in levels for arm, against in self.pairs]
        return [(arm, against) for arm, against in pairs if arm != against and {arm, against} <= arms.keys()]


def _at_most(experiment: Experiment, preset: Preset) -> Experiment:
    """The experiment with as many epochs a stage as the preset allows."""
    second = experiment.second_stage
    if second is not None:
        second = replace(second, inference=_paced(second.inference, preset))
    return replace(experiment, inference=_paced(experiment.inference, preset), second_stage=second)


def _paced(inference: Training, preset: Preset) -> Training:
    """The training at the preset's length; an annealing keeps its share of it."""
    before, epochs = inference.epochs, min(preset.epochs, preset.patience * inference.epochs)
    return replace(
        inference,
        epochs=epochs,
        patience=preset.patience * inference.patience,
        kl_warmup=inference.kl_warmup * epochs // before,
        tempering=inference.tempering * epochs // before,
    )
