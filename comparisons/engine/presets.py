"""Presets for the computational effort of a question."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from flowvae.comparisons.engine.names import named
from flowvae.core.errors import check_int
from flowvae.evaluation import AnnealedHMC, Effort
from flowvae.experiments.experiment import Experiment
from flowvae.inference import Training

__all__ = ["PRESETS", "Preset", "at_preset", "preset_of"]


@dataclass(frozen=True)
class Preset:
    """The computational effort of a question.

    Args:
        seeds: number of seeds, 2 or more.
        epochs: upper limit of the epochs of a training.
        draws: K of the test NLL.
        patience: factor on patience and epochs of the base experiment; `epochs` remains the upper limit.
        effort: computational effort of the measures that refine guides or run chains.
    """

    seeds: int
    epochs: int
    draws: int
    patience: int = 1
    effort: Effort = field(default_factory=Effort)

    def __post_init__(self) -> None:
        check_int(self, "seeds", least=2, most=10_000)  # one seed gives no standard error
        check_int(self, "epochs")
        check_int(self, "draws")
        check_int(self, "patience")

    def label(self, epochs: int) -> str:
        """Return a name for a preset without a name; `epochs` is the largest number of epochs of an arm."""
        return f"{self.seeds}-seeds-{epochs}-epochs-{self.draws}-draws"


PRESETS = {
    # shows which files an answer has
    "seconds": Preset(seeds=2, epochs=2, draws=20, effort=Effort(4, 10, AnnealedHMC(chains=4, temperatures=5))),
    # for notebooks and tests; two seeds allow no conclusion
    "minutes": Preset(seeds=2, epochs=30, draws=200, effort=Effort(16, 100, AnnealedHMC(temperatures=50))),
    "hour": Preset(seeds=5, epochs=400, draws=1000),
    "cluster": Preset(seeds=20, epochs=2000, draws=5000, patience=5),
}


def preset_of(preset: str | Preset) -> Preset:
    """Return a preset by its name; a `Preset` is returned unchanged.

    Raises:
        FlowvaeError: for an unknown name.
    """
    return named("preset", preset, PRESETS)


def at_preset(experiment: Experiment, preset: Preset) -> Experiment:
    """Set the length of training of each stage of an experiment by a preset."""
    second = experiment.second_stage
    if second is not None:
        second = replace(second, inference=_limited(second.inference, preset))
    return replace(experiment, inference=_limited(experiment.inference, preset), second_stage=second)


def _limited(training: Training, preset: Preset) -> Training:
    """Set the length of a training by a preset; annealing keeps its share of the epochs."""
    before, epochs = training.epochs, min(preset.epochs, preset.patience * training.epochs)
    return replace(
        training,
        epochs=epochs,
        patience=preset.patience * training.patience,
        kl_warmup=training.kl_warmup * epochs // before,
        tempering=training.tempering * epochs // before,
    )
