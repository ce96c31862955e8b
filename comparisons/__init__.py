"""Questions about flows in VAEs, one module each, and the engine that answers them."""

from flowvae.comparisons import capacity, holes, kl_weight, posterior_flows, prior_flows, prior_or_posterior
from flowvae.comparisons.answer import Answer, answer
from flowvae.comparisons.grid import Grid, run_grid
from flowvae.comparisons.question import PRESETS, Preset, Question, preset_of
from flowvae.comparisons.report import write_report
from flowvae.comparisons.statistics import paired_differences, summarize

__all__ = [
    "PRESETS",
    "QUESTIONS",
    "Answer",
    "Grid",
    "Preset",
    "Question",
    "answer",
    "paired_differences",
    "preset_of",
    "run_grid",
    "summarize",
    "write_report",
]

_MODULES = (prior_flows, posterior_flows, prior_or_posterior, capacity, holes, kl_weight)
QUESTIONS = {module.QUESTION.name: module.QUESTION for module in _MODULES}
