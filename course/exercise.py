"""Exercises that check an answer, name a typical slip, and show hints and the solution on request."""

from __future__ import annotations

import functools
import html
import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

COLOURS = {"right": "#009e73", "wrong": "#c0392b", "open": "#8a8a8a", "hint": "#e69f00"}


class Wrong(Exception):
    """An answer is wrong; the message gives the reason, but not the answer."""


class Unanswered(Exception):
    """The student's function still returns `None`."""


@dataclass(frozen=True)
class Outcome:
    """Feedback of a check or a hint in a notebook; true only if the answer is right."""

    kind: str  # right, wrong, open or hint
    title: str
    text: str

    def __bool__(self) -> bool:
        return self.kind == "right"

    def __repr__(self) -> str:
        return f"{self.title} {self.text}".strip()

    def _repr_html_(self) -> str:
        style = f"border-left: 4px solid {COLOURS[self.kind]}; padding: 0.2em 0.8em; margin: 0.3em 0"
        return f'<div style="{style}"><b>{html.escape(self.title)}</b> {html.escape(self.text)}</div>'


@dataclass(frozen=True)
class Code:
    """Source code, highlighted in a notebook."""

    text: str

    def __repr__(self) -> str:
        return self.text

    def _repr_markdown_(self) -> str:
        return f"```python\n{self.text}\n```"


@dataclass
class Exercise:
    """A question with a check, hints and a solution.

    Args:
        name: Name of the exercise in the notebook.
        judge: Takes an answer and returns a remark; raises :class:`Wrong` with the reason if it is wrong.
        answer: A function: the right answer itself or, if `value`, a function without arguments that computes it. Its
            source, with its docstring as the derivation, is what :meth:`solution` shows.
        hints: From vague to nearly complete.
        value: Whether the answer is a value and not a function.

    """

    name: str
    judge: Callable[[Any], str]
    answer: Callable[..., Any]
    hints: tuple[str, ...]
    value: bool = False
    _given: int = field(default=0, repr=False)

    def check(self, answer: Any) -> Outcome:
        """Checks an answer. A function that returns `None` counts as not answered yet.

        A function with other arguments than the question asks for is wrong. Exceptions in the student's code are not
        caught.

        Args:
            answer: The value or function that the exercise asks for.

        """
        if answer is None:
            return Outcome("open", "Not answered yet.", f"{self.name}.hint() gives a hint.")
        if inspect.isfunction(answer):
            answer = self._with_checked_arguments(answer)
        try:
            remark = self.judge(answer)
        except Unanswered:
            return self.check(None)
        except Wrong as reason:
            return Outcome("wrong", "Not yet:", str(reason))
        return Outcome("right", "Right.", remark)

    def _with_checked_arguments(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wraps the student's function so that wrong arguments raise :class:`Wrong`."""
        own = inspect.signature(function)

        @functools.wraps(function)
        def called(*args: Any, **kwargs: Any) -> Any:
            try:
                own.bind(*args, **kwargs)
            except TypeError:
                takes = f"({', '.join(own.parameters)})"
                wanted = f"{len(args) + len(kwargs)} argument(s)"
                if not self.value:
                    wanted = f"({', '.join(inspect.signature(self.answer).parameters)})"
                raise Wrong(f"your function takes {takes}, and is called with {wanted}.") from None
            return function(*args, **kwargs)

        return called

    def hint(self) -> Outcome:
        """Shows the next hint, starting with the first."""
        number = min(self._given, len(self.hints) - 1)
        self._given += 1
        last = "" if number + 1 < len(self.hints) else f" (The last hint; {self.name}.solution() shows the solution.)"
        return Outcome("hint", f"Hint {number + 1} of {len(self.hints)}.", self.hints[number] + last)

    def solution(self) -> Code:
        """Shows the solution as code."""
        return Code(textwrap.dedent(inspect.getsource(self.answer)).strip())

    def solved(self) -> Any:
        """Returns the right answer itself."""
        return self.answer() if self.value else self.answer


def answered(result: Any) -> Any:
    """Returns the result of a student's function unchanged.

    Args:
        result: The result.

    Raises:
        Unanswered: It is `None`, as for the notebook's empty function.

    """
    if result is None:
        raise Unanswered
    return result


def exercise(
    answer: Callable[..., Any], hints: tuple[str, ...], *, value: bool = False
) -> Callable[[Callable[[Any], str]], Exercise]:
    """Makes a decorator that turns a function that judges an answer into an exercise.

    Args:
        answer: The solution; see :class:`Exercise`.
        hints: From vague to nearly complete; at least one.
        value: Whether the answer is a value; then `answer` is a function without arguments that computes it.

    """

    def make(judge: Callable[[Any], str]) -> Exercise:
        return Exercise(judge.__name__, judge, answer, hints, value)

    return make
