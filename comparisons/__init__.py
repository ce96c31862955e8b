"""Questions about flows in VAEs, one module each, and the engine that answers them."""

from flowvae.comparisons import posterior_flows, prior_flows
from flowvae.comparisons.answer import Answer, answer
from flowvae.comparisons.grid import Grid, run_grid
from flowvae.comparisons.question import PRESETS, Question
from flowvae.comparisons.report import write_report
from flowvae.comparisons.statistics import paired_differences

__all__ = [
    "PRESETS",
    "QUESTIONS",
    "Answer",
    "Grid",
    "Question",
    "answer",
    "paired_differences",
    "run_grid",
    "write_report",
]

QUESTIONS = {question.name: question for question in (prior_flows.QUESTION, posterior_flows.QUESTION)}
