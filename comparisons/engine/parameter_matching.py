"""Matching of the numbers of parameters of arms, by the widths of hidden layers."""

from __future__ import annotations

import warnings
from dataclasses import fields, is_dataclass, replace
from functools import cache
from typing import Any, TypeVar

from flowvae.core.errors import (
    EstimatedDensityWarning,
    FlowvaeError,
    ImproperDensityWarning,
    SlowDirectionWarning,
    shown,
)
from flowvae.core.parts import NetworkSpec
from flowvae.data import Dataset
from flowvae.experiments.experiment import Experiment

__all__ = ["count_parameters", "hidden_widths", "scaled", "widen_decoder", "widen_encoder"]

TOLERANCE = 0.01  # relative difference below which two parameter counts match
WIDEST = 64  # times the initial width

Network = TypeVar("Network", bound=NetworkSpec)


def count_parameters(experiment: Experiment, data: Dataset) -> int:
    """Count the parameters of model and guide of an experiment's last stage, built for these data."""
    with warnings.catch_warnings():
        for expected in (SlowDirectionWarning, ImproperDensityWarning, EstimatedDensityWarning):
            warnings.simplefilter("ignore", expected)  # nothing is trained or sampled here
        pair = experiment.build(data)
    return sum(parameter.numel() for part in pair for parameter in part.parameters())


def hidden_widths(network: Any) -> tuple[int, ...]:
    """Return the hidden widths of a network, or of the network that it wraps; empty if it has no such setting."""
    if hasattr(network, "hidden_features"):
        return tuple(network.hidden_features)
    name = _wrapped(network)
    return hidden_widths(getattr(network, name)) if name else ()


def scaled(network: Network, factor: float) -> Network:
    """Multiply the widths of all hidden layers of a network by a factor.

    Raises:
        FlowvaeError: for a network without the setting `hidden_features`.
    """
    if hasattr(network, "hidden_features"):
        widths = tuple(max(1, round(factor * width)) for width in network.hidden_features)
        return replace(network, hidden_features=widths)  # type: ignore[type-var]
    if name := _wrapped(network):
        return replace(network, **{name: scaled(getattr(network, name), factor)})  # type: ignore[type-var]
    raise FlowvaeError(
        f"{shown(network)}: has no setting hidden_features, so it cannot be widened to match a number of parameters; "
        "use a network that has it, such as MLP()."
    )


def widen_encoder(experiment: Experiment, data: Dataset, parameters: int) -> Experiment:
    """Choose the encoder width for which an experiment comes closest to a number of parameters.

    Raises:
        FlowvaeError: if the encoder cannot be widened, or no width comes within 1 %.
    """
    return _nearest(experiment, "encoder", data, parameters)


def widen_decoder(experiment: Experiment, data: Dataset, parameters: int) -> Experiment:
    """Choose the decoder width for which an experiment comes closest to a number of parameters.

    Raises:
        FlowvaeError: if the decoder cannot be widened, or no width comes within 1 %.
    """
    return _nearest(experiment, "decoder", data, parameters)


def _nearest(experiment: Experiment, part: str, data: Dataset, parameters: int) -> Experiment:
    """Find the width of the first hidden layer by bisection, with fixed ratios of the widths."""
    network = getattr(experiment, part)
    first = next(iter(hidden_widths(network)), 1)

    def at(width: int) -> Experiment:
        return replace(experiment, **{part: scaled(network, width / first)})

    @cache
    def count(width: int) -> int:
        return count_parameters(at(width), data)

    low = high = first
    while count(high) < parameters and high < WIDEST * first:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if count(middle) < parameters:
            low = middle
        else:
            high = middle
    best = min((low, high), key=lambda width: abs(count(width) - parameters))
    if abs(count(best) - parameters) > TOLERANCE * parameters:
        raise FlowvaeError(
            f"{parameters} parameters: the closest network, at most {WIDEST} times as wide, has {count(best)}; start "
            "from a wider network or a smaller flow."
        )
    return at(best)


def _wrapped(network: Any) -> str | None:
    """Return the name of a network's field that is itself a network."""
    names = [f.name for f in fields(network)] if is_dataclass(network) else []
    return next((name for name in names if isinstance(getattr(network, name), NetworkSpec)), None)
