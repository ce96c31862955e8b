"""A question is its arms as specs, a prediction, and a measure that is fixed before the first run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from matplotlib.figure import Figure

from flowvae.data import Pinwheel, Sprites
from flowvae.errors import FlowvaeError, nearest
from flowvae.experiment import Experiment, Run
from flowvae.inference import Inference
from flowvae.networks import MLP

__all__ = ["BASES", "PRESETS", "Preset", "Question"]


@dataclass(frozen=True)
class Preset:
    """How much work a question may cost.

    Args:
        seeds: how many.
        epochs: the most of a run.
        draws: K of the test NLL.
    """

    seeds: int
    epochs: int
    draws: int


PRESETS = {
    "minutes": Preset(seeds=2, epochs=30, draws=200),  # for notebooks and tests: shows how, decides nothing
    "hour": Preset(seeds=5, epochs=400, draws=1000),
    "cluster": Preset(seeds=20, epochs=2000, draws=5000),
}
# what all arms on a data set share
BASES = {
    "digits": Experiment(),
    "pinwheel": Experiment(latent=2, data=Pinwheel(), inference=Inference(epochs=300, batch_size=256, patience=40)),
    "sprites": Experiment(
        encoder=MLP((256,)),
        decoder=MLP((256,)),
        data=Sprites(),
        inference=Inference(epochs=100, batch_size=128, patience=15),
    ),
}


@dataclass(frozen=True)
class Question:
    """What is asked, and how it is to be answered.

    Args:
        name: by which `flowvae compare` knows it.
        text: first line: the question; the rest: its design and what theory predicts, written before the result.
        arms: makes the arms of the base experiment of a data set, by name.
        baseline: the arm that every other is compared with.
        pairs: further pairs (arm, against) to compare.
        data: names of the data sets that it is asked on.
        measure: the primary measure, a column of the grid's table.
        unit: of the primary measure.
        lower_is_better: its direction.
        secondary: measures that are reported beside it.
        draw: makes further figures, by name, from the arms' runs of the first seed.
    """

    name: str
    text: str
    arms: Callable[[Experiment], Mapping[str, Experiment]]
    baseline: str
    pairs: tuple[tuple[str, str], ...] = ()
    data: tuple[str, ...] = ("digits",)
    measure: str = "nll"
    unit: str = "nats per datum"
    lower_is_better: bool = True
    secondary: tuple[str, ...] = ("elbo",)
    draw: Callable[[Mapping[str, Run]], dict[str, Figure]] | None = None

    @property
    def asks(self) -> str:
        """The question itself."""
        return self.text.strip().splitlines()[0]

    @property
    def predicts(self) -> str:
        """Its design and its prediction."""
        return "\n".join(self.text.strip().splitlines()[1:]).strip()

    def experiments(self, data: str, preset: str) -> dict[str, Experiment]:
        """The arms on a data set at a preset.

        Raises:
            FlowvaeError: for another data set or preset than those it knows.
        """
        if data not in self.data:
            raise FlowvaeError(f"{self.name}: is not asked on {data!r}; {nearest(data, self.data)}")
        if preset not in PRESETS:
            raise FlowvaeError(f"preset {preset!r}: {nearest(preset, PRESETS)}")
        epochs = PRESETS[preset].epochs
        return {name: _at_most(arm, epochs) for name, arm in self.arms(BASES[data]).items()}

    def contrasts(self, arms: Mapping[str, Experiment]) -> list[tuple[str, str]]:
        """Every pair of arms that is compared."""
        return [(arm, self.baseline) for arm in arms if arm != self.baseline] + list(self.pairs)


def _at_most(experiment: Experiment, epochs: int) -> Experiment:
    """The experiment with no more epochs than that; an annealing keeps its share of the training."""
    inference = experiment.inference
    share = min(1.0, epochs / inference.epochs)
    shorter = replace(
        inference,
        epochs=int(share * inference.epochs),
        kl_warmup=int(share * inference.kl_warmup),
        tempering=int(share * inference.tempering),
    )
    return replace(experiment, inference=shorter)
