"""Rules of a fair comparison that can be checked automatically, with points, for the capstone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

from flowvae.comparisons import Preset, Question, preset_of
from flowvae.comparisons.engine.parameter_matching import count_parameters
from flowvae.data import Dataset, DataSpec
from flowvae.experiments.experiment import Experiment

__all__ = ["MEASURES", "Review", "Rule", "review"]

MEASURES = ("nll", "elbo")  # available on the hidden part
SEEDS = 5
OTHER_RULES = ("data", "inference")  # settings with a separate rule
EQUAL = 0.02  # relative difference of two numbers of parameters that count as equal


@dataclass(frozen=True)
class Rule:
    """A rule of the rubric, and the reason why its points are lost; if it is empty, they are earned."""

    name: str
    points: int
    reason: str = ""

    @property
    def earned(self) -> int:
        """Its points, or 0 if they are lost."""
        return 0 if self.reason else self.points


@dataclass(frozen=True)
class Review:
    """The automatic review of a plan; true if no point is lost."""

    rules: tuple[Rule, ...]

    def __bool__(self) -> bool:
        return not any(rule.reason for rule in self.rules)

    def __repr__(self) -> str:
        earned, points = sum(rule.earned for rule in self.rules), sum(rule.points for rule in self.rules)
        lines = [f"{rule.earned} of {rule.points}  {rule.name}: {rule.reason or 'fine'}" for rule in self.rules]
        return "\n".join([*lines, f"{earned} of {points} points"])


@dataclass(frozen=True)
class Plan:
    """A planned comparison: question, arms, effort and data."""

    question: Question
    arms: Mapping[str, Experiment]
    preset: Preset
    data: DataSpec

    @cached_property
    def parameters(self) -> dict[str, int]:
        """Numbers of parameters by arm."""
        data: Dataset = self.data.load(0)
        return {name: count_parameters(arm, data) for name, arm in self.arms.items()}

    def baseline(self, arm: str) -> str:
        """Returns the baseline at the level of an arm."""
        return self.question.baseline + "".join(arm.partition("@")[1:])

    def compared(self, arm: str) -> list[str]:
        """Returns the arms that an arm is compared with."""
        pairs = self.question.contrasts(self.arms)
        return [one if arm == other else other for one, other in pairs if arm in (one, other)]

    def changed(self, arm: str, other: str) -> list[str]:
        """Returns the parts in which two arms differ, apart from widths of networks."""
        one, two = self.arms[arm], self.arms[other]
        names = [f.name for f in fields(Experiment) if f.name not in OTHER_RULES]
        parts = [(name, getattr(one, name), getattr(two, name)) for name in names]
        return [name for name, mine, theirs in parts if mine != theirs and not _same_but_width(mine, theirs)]

    def equal(self, arm: str, other: str) -> bool:
        """Whether two arms have equal numbers of parameters, up to 2 %."""
        return abs(self.parameters[arm] / self.parameters[other] - 1) <= EQUAL


def _same_but_width(one: Any, other: Any) -> bool:
    if type(one) is not type(other) or not hasattr(one, "hidden_features") or not hasattr(one, "gated"):
        return False
    return bool(replace(one, hidden_features=other.hidden_features) == other)


def _baseline(plan: Plan) -> str:
    missing = next((arm for arm in plan.arms if plan.baseline(arm) not in plan.arms), None)
    return "" if missing is None else f"there is no arm {plan.baseline(missing)!r}; the baseline must be among the arms"


def _one_thing(plan: Plan) -> str:
    for arm in plan.arms:
        if arm == plan.baseline(arm):
            continue
        same = next((other for other in plan.arms if other != arm and plan.arms[other] == plan.arms[arm]), None)
        if same is not None:
            return f"{arm} and {same} are the same experiment"
        found = [(len(plan.changed(arm, other)), other) for other in plan.compared(arm)]
        if not found:
            return f"{arm} is compared with no other arm"
        if min(found)[0] > 1:
            parts = " and ".join(plan.changed(arm, min(found)[1]))
            return f"{arm} differs from {min(found)[1]} in {parts}; compare it with an arm that differs in one of them"
    return ""


def _capacity(plan: Plan) -> str:
    for arm in plan.arms:
        base = plan.baseline(arm)
        if base not in plan.arms or plan.equal(arm, base) or not plan.changed(arm, base):
            continue  # equal numbers of parameters, or the arm is itself a control
        if not any(plan.equal(arm, other) and not plan.changed(other, base) for other in plan.compared(arm)):
            return (
                f"{arm} has {plan.parameters[arm]} parameters, {base} {plan.parameters[base]}; widen a network until "
                f"they are equal, or compare {arm} with a wider {base}"
            )
    return ""


def _stopping(plan: Plan) -> str:
    for arm, experiment in plan.arms.items():
        base = plan.arms.get(plan.baseline(arm), experiment)
        for f in fields(base.inference):
            mine, theirs = getattr(experiment.inference, f.name), getattr(base.inference, f.name)
            if mine != theirs:
                return f"{arm} trains with {f.name} = {mine}, the baseline with {theirs}"
        if (experiment.second_stage is None) != (base.second_stage is None):
            return f"{arm} has one more stage of training than the baseline, or one fewer"
    return ""


def _seeds(plan: Plan) -> str:
    return "" if plan.preset.seeds >= SEEDS else f"{plan.preset.seeds} seeds; take {SEEDS} or more"


def _prediction(plan: Plan) -> str:
    said = "predict" in plan.question.predicts.lower()
    return "" if said else "the text has no prediction; add a line 'I predict: …' below the question"


def _measure(plan: Plan) -> str:
    measure, secondary = plan.question.measure, plan.question.secondary
    if measure not in MEASURES:
        return f"the primary measure is {measure}; the hidden part has {' and '.join(MEASURES)}"
    return f"{measure} is both primary and secondary" if measure in secondary else ""


def _sealed(plan: Plan) -> str:
    wrong = next((arm for arm, experiment in plan.arms.items() if experiment.data != plan.data), None)
    return "" if wrong is None else f"{wrong} has other data than the project's; use Experiment(data=project.data)"


RULES: tuple[tuple[str, int, Callable[[Plan], str]], ...] = (
    ("the baseline is among the arms", 1, _baseline),
    ("arms differ in one thing", 2, _one_thing),
    ("equally many parameters, or a control", 2, _capacity),
    ("the same training and stopping rule", 1, _stopping),
    ("five seeds or more", 1, _seeds),
    ("a prediction is written down", 1, _prediction),
    ("one primary measure", 1, _measure),
    ("the hidden part is out of sight", 1, _sealed),
)


def review(data: DataSpec, question: Question, base: Experiment, preset: str | Preset) -> Review:
    """Reviews a planned comparison by the rules of the rubric.

    Args:
        data: The project's data, without the hidden part.
        question: The question.
        base: The experiment that all arms share.
        preset: The effort, as for `answer`.
    """
    chosen = preset_of(preset)
    plan = Plan(question, question.experiments(base, chosen), chosen, data)
    return Review(tuple(Rule(name, points, rule(plan)) for name, points, rule in RULES))
