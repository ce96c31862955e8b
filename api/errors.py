"""Errors that a user can mend, and the checks of settings that raise them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from difflib import get_close_matches

__all__ = [
    "DamagedError",
    "EstimatedDensityWarning",
    "FlowvaeError",
    "ImproperDensityWarning",
    "OtherDeviceWarning",
    "SlowDirectionWarning",
    "UnfinishedRunWarning",
    "boolean",
    "nearest",
    "number",
    "one_of",
    "sizes",
    "whole",
    "whole_number",
]


class FlowvaeError(ValueError):
    """A mistake in settings, data or files; its text names the value, the rule and the remedy."""


class DamagedError(FlowvaeError):
    """A file of a run that was written whole and is not so any more."""


class SlowDirectionWarning(UserWarning):
    """A flow is used in the direction in which it costs many network passes."""


class ImproperDensityWarning(UserWarning):
    """A flow is used as a density on all of R^D, where it loses mass."""


class EstimatedDensityWarning(UserWarning):
    """A flow's log-densities are random estimates, from which importance-weighted figures come out wrong."""


class UnfinishedRunWarning(UserWarning):
    """A run is used before its training has ended."""


class OtherDeviceWarning(UserWarning):
    """A run is opened on another device than it was trained on."""


def whole_number(label: str, value: object, least: int = 1, most: int | None = None) -> None:
    """Check that a value is a whole number, not below `least` and not above `most`.

    Raises:
        FlowvaeError: if it is not.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least or (most is not None and value > most):
        rule = f"{least} or more" if most is None else f"{least} to {most}"
        raise FlowvaeError(f"{label} = {value!r}: must be a whole number, {rule}.")


def whole(owner: object, name: str, least: int = 1, most: int | None = None) -> None:
    """Check that a setting is a whole number, not below `least` and not above `most`.

    Raises:
        FlowvaeError: if it is not.
    """
    whole_number(f"{_label(owner)}.{name}", getattr(owner, name), least, most)


def boolean(owner: object, name: str) -> None:
    """Check that a setting is true or false.

    Raises:
        FlowvaeError: if it is not.
    """
    value = getattr(owner, name)
    if not isinstance(value, bool):
        raise FlowvaeError(f"{_label(owner)}.{name} = {value!r}: must be true or false.")


def number(owner: object, name: str, above: float = 0.0, optional: bool = False, least: float | None = None) -> None:
    """Check that a setting is a finite number greater than `above`, or not below `least` (or None, where `optional`).

    Raises:
        FlowvaeError: if it is not.
    """
    value = getattr(owner, name)
    if optional and value is None:
        return
    real = isinstance(value, int | float) and not isinstance(value, bool) and value < float("inf")
    if not real or not (value > above if least is None else value >= least):
        rule = f"above {above:g}" if least is None else f"{least:g} or more"
        none = ", or none" if optional else ""
        raise FlowvaeError(f"{_label(owner)}.{name} = {value!r}: must be a number {rule}{none}.{_unquoted(value)}")


def sizes(owner: object, name: str) -> None:
    """Check that a setting is a tuple of layer widths, each 1 or more, and at least one of them.

    A list (as YAML gives it) is turned into a tuple.

    Raises:
        FlowvaeError: if it is neither.
    """
    value = getattr(owner, name)
    if isinstance(value, list):
        value = tuple(value)
        object.__setattr__(owner, name, value)
    if not isinstance(value, tuple) or not value or any(type(v) is not int or v < 1 for v in value):
        raise FlowvaeError(f"{_label(owner)}.{name} = {value!r}: must be one or more layer widths, such as (64, 64).")


def one_of(owner: object, name: str, choices: Iterable[str]) -> None:
    """Check that a setting is one of the given words.

    Raises:
        FlowvaeError: if it is not; names the nearest.
    """
    value, known = getattr(owner, name), list(choices)
    if value not in known:
        raise FlowvaeError(f"{_label(owner)}.{name} = {value!r}: {nearest(str(value), known)}")


def nearest(word: str, known: Iterable[str]) -> str:
    """Say which of the known words was probably meant, and list them all.

    >>> nearest("mfa", ["maf", "nsf"])
    'did you mean maf? Known: maf, nsf.'
    """
    names = sorted(known)
    by_lower = {name.lower(): name for name in names}
    close = get_close_matches(word.lower(), by_lower, n=1, cutoff=0.5)
    hint = f"did you mean {by_lower[close[0]]}? " if close else ""
    return f"{hint}Known: {', '.join(names)}."


def _unquoted(value: object) -> str:
    """What to write in YAML for a number that it took for text, such as 1e-3."""
    try:
        if not isinstance(value, str) or not math.isfinite(float(value)):
            return ""
    except ValueError:
        return ""
    mantissa, _, exponent = value.strip().lower().partition("e")
    if not exponent:
        return f" It is text: write {mantissa} without quotes."
    point = "" if "." in mantissa else ".0"
    return f" YAML takes it for text: write {mantissa}{point}e{int(exponent):+d} there."


def _label(owner: object) -> str:
    return type(owner).__name__
