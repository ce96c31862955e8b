"""Every exercise of the course: its solution is right, an empty answer is open, and hints come one at a time."""

from __future__ import annotations

import importlib
import pkgutil
import re

import pytest

import flowvae.course
from flowvae.course.any_model import evidence
from flowvae.course.exercise import Exercise, Wrong, answered, exercise

MODULES = [
    importlib.import_module(f"flowvae.course.{module.name}") for module in pkgutil.iter_modules(flowvae.course.__path__)
]
EXERCISES = {
    f"{module.__name__.rsplit('.', 1)[1]}.{name}": value
    for module in MODULES
    for name, value in vars(module).items()
    if isinstance(value, Exercise)
}


@pytest.fixture(params=EXERCISES.values(), ids=EXERCISES)
def task(request: pytest.FixtureRequest) -> Exercise:
    return request.param


def test_the_solution_is_right(task: Exercise) -> None:
    outcome = task.check(task.solved())
    assert outcome, outcome
    assert outcome.kind == "right"


def test_no_answer_is_open_and_none_is_given_away(task: Exercise) -> None:
    assert task.check(None).kind == "open"
    if not task.value:
        assert task.check(lambda *_, **__: None).kind == "open"


def test_hints_come_one_at_a_time_and_the_last_stays(task: Exercise) -> None:
    shown = [task.hint().text for _ in task.hints]
    assert all(text.startswith(hint) for text, hint in zip(shown, task.hints, strict=True))
    assert task.hint().text == shown[-1]


def test_the_solution_shows_code_with_its_derivation(task: Exercise) -> None:
    assert re.search(rf"(def|class) {task.answer.__name__}", repr(task.solution()))
    assert task.answer.__doc__


def test_a_wrong_answer_is_false_and_says_why_in_text_and_html() -> None:
    @exercise(lambda: 2, hints=("<one>",), value=True)
    def two(answer: int) -> str:
        """Judges 2."""
        if answer != 2:
            raise Wrong("1 < 2")
        return "It is even."

    outcome = two.check(1)
    assert not outcome
    assert "1 < 2" in repr(outcome)
    assert "1 &lt; 2" in outcome._repr_html_()
    assert two.check(2)
    assert "&lt;one&gt;" in two.hint()._repr_html_()


def test_an_error_in_the_students_code_is_the_students_to_see() -> None:
    @exercise(lambda x: x, hints=("",))
    def same(answer: object) -> str:
        """Judges the identity."""
        return str(answered(answer(1)))  # type: ignore[operator]

    with pytest.raises(ZeroDivisionError):
        same.check(lambda x: 1 / 0)
    with pytest.raises(TypeError, match="unsupported"):
        same.check(lambda x: x + "1")


def test_other_arguments_than_the_question_has_are_named() -> None:
    @exercise(lambda mean, scale: mean / scale, hints=("",))
    def ratio(answer: object) -> str:
        """Judges a ratio."""
        return str(answered(answer(1.0, scale=2.0)))  # type: ignore[operator]

    outcome = ratio.check(lambda h: 3)
    assert outcome.kind == "wrong"
    assert "takes (h)" in outcome.text
    assert "(mean, scale)" in outcome.text
    assert ratio.check(lambda mean, *, scale: mean / scale)
    assert ratio.check(lambda *all_, **named: 3)
    assert ratio.check(lambda mean, std: mean / std).kind == "wrong"
    assert ratio.check(lambda mean, scale, twice=False: mean / scale)
    assert not evidence.check(lambda h: 3)
