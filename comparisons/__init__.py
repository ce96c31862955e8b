"""Questions about flows in VAEs, and the engine that answers them."""

import flowvae.comparisons.questions  # noqa: F401  (registers them)
from flowvae.comparisons.engine.answer import Answer, answer
from flowvae.comparisons.engine.bases import BASES
from flowvae.comparisons.engine.grid import Grid, run_grid
from flowvae.comparisons.engine.presets import PRESETS, Preset, preset_of
from flowvae.comparisons.engine.question import QUESTIONS, Question, question_of
from flowvae.comparisons.engine.report import write_report
from flowvae.comparisons.engine.statistics import paired_differences, summarize

__all__ = [
    "BASES",
    "PRESETS",
    "QUESTIONS",
    "Answer",
    "Grid",
    "Preset",
    "Question",
    "answer",
    "paired_differences",
    "preset_of",
    "question_of",
    "run_grid",
    "summarize",
    "write_report",
]
