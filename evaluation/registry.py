"""The registry of measures of a fitted VAE."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from flowvae.core.errors import FlowvaeError, nearest, shown
from flowvae.evaluation.context import EvaluationContext, MeasureResult
from flowvae.evaluation.likelihood.sampler import COMPILE

__all__ = ["MEASURES", "check_measures", "figures_of_measures", "held_out_measures", "measure"]

Function = Callable[[EvaluationContext], MeasureResult]

MEASURES: dict[str, Function] = {}
_HELD_OUT: dict[str, bool] = {}
_FIGURES: dict[str, tuple[str, ...]] = {}


def measure(name: str, *, held_out: bool = False, figures: Sequence[str] = ()) -> Callable[[Function], Function]:
    """Register a function as a measure; the first line of its docstring is its description in listings.

        @measure("mean-code")
        def _mean_code(context: EvaluationContext) -> MeasureResult: ...

    Args:
        name: name of the measure.
        held_out: whether it compares the split with the training data.
        figures: names of the figures that it may draw; `--overwrite` may delete them.

    Raises:
        FlowvaeError: for a name that another module has registered.
    """

    def register(function: Function) -> Function:
        other: Any = MEASURES.get(name)
        if other is not None and other.__module__ != function.__module__:
            raise FlowvaeError(f"measure {shown(name)}: already registered by {other.__module__}; choose another name.")
        MEASURES[name], _HELD_OUT[name], _FIGURES[name] = function, held_out, tuple(figures)
        return function

    return register


def figures_of_measures() -> tuple[str, ...]:
    """Names of the figures that measures may draw."""
    return tuple(figure for figures in _FIGURES.values() for figure in figures)


def held_out_measures() -> tuple[str, ...]:
    """Names of the measures that compare a split with the training data."""
    return tuple(name for name, held_out in _HELD_OUT.items() if held_out)


def check_measures(measures: Sequence[str], split: str, compile: str) -> None:  # noqa: A002
    """Check the names of measures, split and compilation mode before any work.

    Args:
        measures: names in `MEASURES`.
        split: "train", "valid" or "test".
        compile: compilation mode; see `EvaluationContext`.

    Raises:
        FlowvaeError: for an unknown measure, split or compilation mode, or a measure of held-out data on "train".
    """
    for name in measures:
        if name not in MEASURES:
            raise FlowvaeError(f"measure {shown(name)}: {nearest(name, MEASURES)}")
    if split not in ("train", "valid", "test"):
        raise FlowvaeError(f"split = {shown(split)}: {nearest(split, ('train', 'valid', 'test'))}")
    held_out = [name for name in measures if name in held_out_measures()]
    if held_out and split == "train":
        raise FlowvaeError(
            f"split = 'train' with {', '.join(held_out)}: these compare held-out data with the training data; use "
            "valid or test, or leave them out."
        )
    if compile not in COMPILE:
        raise FlowvaeError(f"compile = {shown(compile)}: {nearest(compile, COMPILE)}")
