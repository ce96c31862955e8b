"""The course: exercises that check answers, one or more modules per notebook, and the style of the figures."""

from flowvae.course.exercise import Exercise, Outcome, Wrong, exercise
from flowvae.course.figures import animate, use_style

__all__ = ["Exercise", "Outcome", "Wrong", "animate", "exercise", "use_style"]
