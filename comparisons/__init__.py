"""Questions about flows in VAEs, one module each, and the engine that answers them."""

from flowvae.comparisons.engine.answer import Answer, answer
from flowvae.comparisons.engine.grid import Grid, run_grid
from flowvae.comparisons.engine.question import PRESETS, Preset, Question, preset_of
from flowvae.comparisons.engine.report import write_report
from flowvae.comparisons.engine.statistics import paired_differences, summarize
from flowvae.comparisons.questions import capacity, holes, kl_weight, posterior_flows, prior_flows, prior_or_posterior

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
