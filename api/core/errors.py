"""Errors that a user can fix, and the checks of settings that raise them."""

from __future__ import annotations

import math
import re
import reprlib
import sys
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from typing import Any

__all__ = [
    "MOST_LAYERS",
    "DamagedError",
    "EstimatedDensityWarning",
    "FlowvaeError",
    "ImproperDensityWarning",
    "IntractableError",
    "OtherDeviceWarning",
    "SlowDirectionWarning",
    "UnfinishedRunWarning",
    "check_bool",
    "check_choice",
    "check_int",
    "check_int_value",
    "check_number",
    "check_widths",
    "nearest",
    "one_line",
    "plain_number",
    "shown",
    "shown_path",
]


WIDEST = 100  # characters of a value that a message repeats
LARGEST_WHOLE = 2**63 - 1  # torch's largest integer (int64)
LARGEST_NUMBER = sys.float_info.max
MOST_LAYERS = 1000  # maximum number of layers of a network, and of transforms of a flow
MOST_NAMES = 60  # maximum number of names that a message lists


class FlowvaeError(ValueError):
    """A mistake in settings, data or files; the message names the value, the rule and the remedy."""

    def __str__(self) -> str:
        # Pyro's handlers append the shapes of all sites of a trace, over many lines
        return re.split(r"\n *Trace Shapes:", super().__str__())[0]


class IntractableError(FlowvaeError):
    """A quantity that has no closed form in a model, such as the density of a prior with latent variables."""


class DamagedError(FlowvaeError):
    """A file of a run whose content was changed or lost after it was written."""


class SlowDirectionWarning(UserWarning):
    """A flow is used in its slow direction, which takes many network passes."""


class ImproperDensityWarning(UserWarning):
    """A flow that is not normalized on all of R^D is used as a density there."""


class EstimatedDensityWarning(UserWarning):
    """Log-densities, or their normalizing constant, are unreliable estimates, so metrics based on them are wrong."""


class UnfinishedRunWarning(UserWarning):
    """A run is used before its training has ended."""


class OtherDeviceWarning(UserWarning):
    """A run is loaded on a different device than it was trained on."""


class _Short(reprlib.Repr):
    """Repr of bounded length, computed in bounded time even for very large nested lists."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother, self.maxlong = 3, 60, 60, 40

    def repr_int(self, x: int, level: int) -> str:
        bits = x.bit_length()
        return super().repr_int(x, level) if bits < 4096 else f"<a whole number of {bits} bits>"

    def repr_DataFrame(self, x: Any, level: int) -> str:
        return f"<{type(x).__name__} of shape {getattr(x, 'shape', ())}>"

    def repr_instance(self, x: Any, level: int) -> str:
        if is_dataclass(x) and not isinstance(x, type):  # before x.shape, which may be a property that reads a file
            if level <= 0:
                return f"{type(x).__name__}(...)"
            # values that differ from the defaults come first, since the text may be cut
            own = sorted((f for f in fields(x) if f.repr), key=lambda f: getattr(x, f.name) is f.default)
            inside = (f"{f.name}={self.repr1(getattr(x, f.name), level - 1)}" for f in own)
            return f"{type(x).__name__}({', '.join(inside)})"
        shape, dtype = getattr(x, "shape", None), getattr(x, "dtype", None)
        if isinstance(shape, tuple) and dtype is not None and shape:
            return f"<{type(x).__name__} of shape {tuple(shape)}, {dtype}>"
        try:
            return super().repr_instance(x, level)
        except Exception:  # a user's __repr__ may raise anything
            return f"<{type(x).__name__}>"


_SHORT = _Short()


def shown(value: object, width: int = WIDEST) -> str:
    """Format a value for an error message: its repr on one line, cut to `width`, or shape and type of an array.

    >>> shown([[0] * 1000] * 1000, width=40)
    '[[0, 0, 0, 0, 0, 0, ...], [0, 0, 0, 0...'
    """
    text = repr(value[:width]) if type(value) is str else _SHORT.repr(value)
    return one_line(text, width) if "\n" in text else _cut(text, width)


def shown_path(path: object) -> str:
    """Format a path for an error message; its limit is larger than for other values, to keep the file name."""
    return shown(str(path), 3 * WIDEST)


def one_line(text: object, width: int = 3 * WIDEST) -> str:
    r"""Put a message, such as another library's, on one line, cut to `width` characters.

    >>> one_line(ValueError("no\n   such thing"))
    'no such thing'
    """
    return _cut(" ".join(str(text).split()), width)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 3]}..."


def plain_number(value: Any) -> Any:
    """Convert a NumPy scalar to a plain number, boolean or string; return anything else unchanged.

    >>> import numpy as np
    >>> plain_number(np.int64(8)), plain_number(np.float64(0.5)), plain_number(np.bool_(True))
    (8, 0.5, True)
    """
    np = sys.modules.get("numpy")
    if np is None or not isinstance(value, np.generic):
        return value
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, np.floating):
        return float(value)
    return str(value) if isinstance(value, np.str_) else value


def check_int_value(label: str, value: object, least: int = 1, most: int | None = None) -> None:
    """Check that a value is a whole number, not below `least` and not above `most`.

    Raises:
        FlowvaeError: if it is not.
    """
    value = plain_number(value)
    if isinstance(value, int) and not isinstance(value, bool) and least <= value <= (most or LARGEST_WHOLE):
        return
    rule = f"{least} to {most}" if most is not None else f"{least} or more"
    large = ", and below 2**63" if isinstance(value, int) and value > LARGEST_WHOLE and most is None else ""
    raise FlowvaeError(f"{label} = {shown(value)}: must be a whole number, {rule}{large}.")


def check_int(owner: object, name: str, least: int = 1, most: int | None = None) -> None:
    """Check that a setting is a whole number, not below `least` and not above `most`.

    Raises:
        FlowvaeError: if it is not.
    """
    check_int_value(f"{_label(owner)}.{name}", _setting(owner, name), least, most)


def check_bool(owner: object, name: str) -> None:
    """Check that a setting is true or false.

    Raises:
        FlowvaeError: if it is not.
    """
    value = _setting(owner, name)
    if not isinstance(value, bool):
        raise FlowvaeError(f"{_label(owner)}.{name} = {shown(value)}: must be true or false.")


def check_number(
    owner: object, name: str, above: float = 0.0, optional: bool = False, least: float | None = None
) -> None:
    """Check that a setting is a finite number greater than `above`, or not below `least` (or None, where `optional`).

    Raises:
        FlowvaeError: if it is not.
    """
    value = _setting(owner, name)
    if optional and value is None:
        return
    real = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST_NUMBER
    if not real or not (value > above if least is None else value >= least):
        rule = f"above {above:g}" if least is None else f"{least:g} or more"
        none = ", or none" if optional else ""
        raise FlowvaeError(f"{_label(owner)}.{name} = {shown(value)}: must be a number {rule}{none}.{_unquoted(value)}")


def check_widths(owner: object, name: str) -> None:
    """Check that a setting is a non-empty tuple of layer widths, each 1 or more.

    A list (as YAML gives it) becomes a tuple.

    Raises:
        FlowvaeError: if it is not, or has more than 1000 layers.
    """
    value = getattr(owner, name)
    if isinstance(value, list | tuple):
        value = tuple(plain_number(v) for v in value)
        object.__setattr__(owner, name, value)
    widths = isinstance(value, tuple) and all(type(v) is int and 1 <= v <= LARGEST_WHOLE for v in value)
    if not widths or not 1 <= len(value) <= MOST_LAYERS:
        many = f", {MOST_LAYERS} at most; these are {len(value)}" if widths and value else ""
        raise FlowvaeError(
            f"{_label(owner)}.{name} = {shown(value)}: must be one or more layer widths, such as (64, 64){many}."
        )


def check_choice(owner: object, name: str, choices: Iterable[str]) -> None:
    """Check that a setting is one of the given words.

    Raises:
        FlowvaeError: if it is not, with the nearest choice.
    """
    value, known = _setting(owner, name), list(choices)
    if not isinstance(value, str) or value not in known:
        raise FlowvaeError(f"{_label(owner)}.{name} = {shown(value)}: {nearest(value, known)}")


def nearest(word: object, known: Iterable[str]) -> str:
    """Suggest which of the known words was probably meant, and list the first 60 of them.

    >>> nearest("mfa", ["maf", "nsf"])
    'did you mean maf? Known: maf, nsf.'
    """
    names = sorted(known)
    by_lower = {name.lower(): name for name in names}
    text = word[:WIDEST] if isinstance(word, str) else shown(word)
    close = get_close_matches(text.lower(), by_lower, n=1, cutoff=0.5)
    hint = f"did you mean {_name(by_lower[close[0]])}? " if close else ""
    rest = f", and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return f"{hint}Known: {', '.join(map(_name, names[:MOST_NAMES])) or 'none'}{rest}."


def _name(name: str) -> str:
    """Format a known word; as a short repr if it is long or unprintable, as in a damaged or hostile file."""
    return name if len(name) <= WIDEST and name.isprintable() else shown(name)


def _setting(owner: object, name: str) -> Any:
    """Return a setting's value, after replacing a NumPy scalar by a plain number."""
    value = getattr(owner, name)
    if (plain := plain_number(value)) is not value:
        object.__setattr__(owner, name, plain)
    return plain


def _unquoted(value: object) -> str:
    """Explain how to write a number that YAML has read as text, such as 1e-3."""
    try:
        if not isinstance(value, str) or not math.isfinite(float(value)):
            return ""
    except ValueError:
        return ""
    mantissa, _, exponent = value.strip().lower().partition("e")
    if not exponent:
        return f" It is text: write {mantissa} without quotes."
    point = "" if "." in mantissa else ".0"
    return f" YAML reads it as text: write {mantissa}{point}e{int(exponent):+d}."


def _label(owner: object) -> str:
    return type(owner).__name__
