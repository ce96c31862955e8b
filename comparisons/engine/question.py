"""Questions: arms as experiments, a prediction, and a primary measure fixed before the first run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flowvae.comparisons.engine.bases import base_on
from flowvae.comparisons.engine.names import check_name, named
from flowvae.comparisons.engine.presets import PRESETS, Preset, at_preset, preset_of
from flowvae.core.errors import FlowvaeError, shown
from flowvae.data import Dataset
from flowvae.experiments.experiment import Experiment
from flowvae.experiments.run import Run

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["QUESTIONS", "Question", "question_of"]

QUESTIONS: dict[str, Question] = {}  # by name


@dataclass(frozen=True)
class Question:
    """A question with its design; its definition registers it by name.

    Args:
        name: name for `flowvae compare`. Defining it again in the same module, such as in a notebook cell that runs
            twice, replaces it; a copy by `dataclasses.replace` does not.
        text: the question (first line), its design and the prediction of theory, written before the result.
        arms: function of a base experiment and its data that returns the arms by name. "arm@level" is an arm at one
            level of a factor that is varied in all arms; it is compared with arms at the same level.
        baseline: the arm that all others are compared with.
        pairs: further pairs (arm, against) to compare, at each level.
        costly: expensive arms that only the cluster preset runs.
        data: names of the data sets that the question was designed for; the first is the default.
        needs: required attributes of the `Dataset`, such as "labels" or "log_evidence".
        measure: the primary measure, a column of the grid's table.
        unit: of the primary measure.
        lower_is_better: direction of the primary measure.
        secondary: further measures to report.
        measures: measures of each cell besides the likelihood, by names in `flowvae.evaluation.MEASURES`; list the
            metrics to report in `secondary`.
        draw: function of the arms' runs of the first seed and the table of all runs; returns further figures by name.

    Raises:
        FlowvaeError: for a name that is not a file name, or that another module has registered.
    """

    name: str
    text: str
    arms: Callable[[Experiment, Dataset], Mapping[str, Experiment]]
    baseline: str
    pairs: tuple[tuple[str, str], ...] = ()
    costly: tuple[str, ...] = ()
    data: tuple[str, ...] = ("digits",)
    needs: tuple[str, ...] = ()
    measure: str = "nll"
    unit: str = "nats per datum"
    lower_is_better: bool = True
    secondary: tuple[str, ...] = ("elbo",)
    measures: tuple[str, ...] = ()
    draw: Callable[[Mapping[str, Run], pd.DataFrame], dict[str, Figure]] | None = None

    def __post_init__(self) -> None:
        check_name("question", self.name)
        known = QUESTIONS.get(self.name)
        if known is None or (known.arms is not self.arms and known.module == self.module):
            QUESTIONS[self.name] = self
        elif known.module != self.module:
            raise FlowvaeError(
                f"Question.name = {shown(self.name)}: already registered by {known.module}; choose another name."
            )

    @property
    def module(self) -> str:
        """The module that defines its arms."""
        return getattr(self.arms, "__module__", "")

    @property
    def asks(self) -> str:
        """The question, the first line of the text."""
        return self.text.strip().splitlines()[0]

    @property
    def predicts(self) -> str:
        """Design and prediction, the rest of the text."""
        return "\n".join(self.text.strip().splitlines()[1:]).strip()

    def experiments(
        self,
        base: str | Experiment,
        preset: str | Preset = "minutes",
        *,
        path: Path | None = None,
        data: Dataset | None = None,
    ) -> dict[str, Experiment]:
        """Return the arms for some data and a preset.

        Args:
            base: experiment shared by all arms, with its data, or the name of a data set in `BASES`.
            preset: a name in `PRESETS`, or a `Preset`.
            path: file of a named data set that is read from a file.
            data: the data of `base`, if they are already loaded.

        Raises:
            FlowvaeError: for an unknown data set or preset, and for data without what the question needs.
        """
        chosen = preset_of(preset)
        base = base_on(base, path) if isinstance(base, str) else base
        data = base.data.load(base.seed) if data is None else data
        lacking = [need for need in self.needs if getattr(data, need, None) is None]
        if lacking:
            raise FlowvaeError(
                f"{self.name}: needs data with {' and '.join(lacking)}, which {data.name} lacks; use "
                f"other data, such as {' or '.join(self.data)}."
            )
        left_out = self.costly if chosen != PRESETS["cluster"] else ()
        arms = {name: arm for name, arm in self.arms(base, data).items() if name not in left_out}
        return {check_name("arm", name): at_preset(arm, chosen) for name, arm in arms.items()}

    def contrasts(self, arms: Mapping[str, Experiment]) -> list[tuple[str, str]]:
        """Return all pairs (arm, against) to compare."""
        levels = dict.fromkeys("".join(arm.partition("@")[1:]) for arm in arms)
        pairs = [(arm, self.baseline + "".join(arm.partition("@")[1:])) for arm in arms]
        pairs += [(arm + level, against + level) for level in levels for arm, against in self.pairs]
        return [(arm, against) for arm, against in pairs if arm != against and {arm, against} <= arms.keys()]


def question_of(question: str | Question) -> Question:
    """Return a question by its name; a `Question` is returned unchanged.

    Raises:
        FlowvaeError: for an unknown name.
    """
    return named("question", question, QUESTIONS)
