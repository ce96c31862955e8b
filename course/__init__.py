"""The course: checked exercises, one module for each notebook, and the style of its figures."""

from flowvae.course.exercise import Exercise, Outcome, Wrong, exercise
from flowvae.course.figures import animate, use_style

__all__ = ["Exercise", "Outcome", "Wrong", "animate", "exercise", "use_style"]
