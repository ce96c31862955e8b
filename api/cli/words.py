"""Command-line words that name parts, such as prior:maf; they are read before the arguments are parsed.

The parser then gets one dataclass with the chosen parts, so that settings can come in any order and no sub-commands are
needed. tyro's own sub-commands, including cascading ones, have disadvantages: a setting must follow its part, each
family of each part needs a sub-command, and errors name neither the family of a setting nor a part that is given twice.
"""

from __future__ import annotations

import copy
import re
from dataclasses import MISSING, dataclass, fields, is_dataclass
from itertools import pairwise
from operator import attrgetter
from typing import Any, Generic, TypeVar, get_args, get_type_hints

import tyro

from flowvae.core.errors import FlowvaeError, shown
from flowvae.core.parts import Condition
from flowvae.core.registry import Family, Spec, find, name_of
from flowvae.experiments.serialization import check_setting

__all__ = ["Chosen", "choose_parts", "is_choice", "kind_of_part"]

CHOICE = re.compile(r"(\w[\w-]*(?:\.[\w-]+)*):(.*)", re.DOTALL)  # prior:maf, inference.schedule:cosine
SETTING = re.compile(r"--([\w-]+(?:\.[\w-]+)*)(?:=.*)?", re.DOTALL)  # --prior.transforms, --guide.no-conditioned

Base = TypeVar("Base")


@dataclass(frozen=True)
class Chosen(Generic[Base]):
    """A command line whose parts have been read.

    Args:
        words: the words that do not name parts.
        base: the object with the chosen parts.
        named: the parts, by the words that name them.
    """

    words: list[str]
    base: Base
    named: dict[str, Any]


def choose_parts(words: list[str], base: Base) -> Chosen[Base]:
    """Replace the parts that words name, such as prior:maf, prior.decoder:resnet or condition:labels.

    A named part gets default settings; parts inside a part may be named before it.

    Args:
        words: words of a command line.
        base: the dataclass that has the parts.

    Raises:
        FlowvaeError: for an unknown family or part, a part that is named twice, a setting of another family, and true
            or false after a switch.

    >>> from flowvae.experiments.experiment import Experiment
    >>> choose_parts(["prior:maf", "--latent", "2", "--prior.transforms", "5"], Experiment()).words
    ['--latent', '2', '--prior.transforms', '5']
    """
    rest: list[str] = []
    named: dict[tuple[str, ...], str] = {}  # words by path
    for word in words:
        path = tuple(_path(word.partition(":")[0]))
        if not is_choice(word, base):
            rest.append(word)
        elif path in named:
            raise FlowvaeError(
                f"{shown(named[path])} and {shown(word)}: the {'.'.join(path)} is named twice; name it once."
            )
        else:
            named[path] = word
    for path in sorted(named, key=len):  # a part before the parts inside it
        base = _swap(base, list(path), named[path])
    settings = [_path(found.group(1)) for word in rest if (found := SETTING.fullmatch(word))]
    conditioned = ("condition",) not in named and any(path[0] == "condition" and len(path) > 1 for path in settings)
    if conditioned and getattr(base, "condition", base) is None:  # a setting of the condition implies one
        base = _swap(base, ["condition"], f"condition:{Condition().on}")
    for setting in settings:
        _check_setting(base, setting)
    for option, value in pairwise(rest):
        _check_switch(base, option, value)
    return Chosen(rest, base, {word: attrgetter(".".join(path))(base) for path, word in named.items()})


def is_choice(word: str, base: object) -> bool:
    """Whether a word names a part; other words with a colon are likelihoods, devices and addresses."""
    found = CHOICE.fullmatch(word)
    if found is None:
        return False
    head = _path(found.group(1))[0]
    return bool(kind_of_part(base, head)) or is_dataclass(getattr(base, head, None))


def kind_of_part(owner: object, name: str) -> str:
    """Return the kind of part of a dataclass field; empty if words cannot name it."""
    try:
        hint = get_type_hints(type(owner)).get(name) if is_dataclass(owner) else None
    except NameError:  # annotations of a class that was defined inside a function
        return ""
    if Condition in get_args(hint):
        return "condition"
    kinds = (getattr(one, "part", "") for one in (hint, *get_args(hint)))
    return next((kind for kind in kinds if kind and kind != "likelihood"), "")  # a likelihood is given in text form


def _swap(owner: Any, path: list[str], word: str) -> Any:
    """Copy the owner with another part; unchecked, since settings may still be missing."""
    first, *inside = path
    kind, name = kind_of_part(owner, first), word.partition(":")[2]
    if inside and is_dataclass(getattr(owner, first, None)):
        part = _swap(getattr(owner, first), inside, word)
    elif inside or not kind:
        own = [f.name for f in fields(owner) if kind_of_part(owner, f.name)]
        having = ", ".join(own) if own else "none"
        raise FlowvaeError(f"{shown(word)}: no part {shown(first)} in {type(owner).__name__}; it has {having}.")
    elif kind == "condition":
        part = None if name == "none" else Condition(on=name)
    else:
        part = _default(find(kind, name))
    changed = copy.copy(owner)
    object.__setattr__(changed, first, part)
    return changed


def _default(family: Family) -> Any:
    """Return a part with default settings; settings without a default are tyro.MISSING until they are parsed."""
    if family.default is not None:
        return family.default
    part = object.__new__(family.type)
    for f in fields(family.type):
        given = f.default_factory() if f.default_factory is not MISSING else f.default
        object.__setattr__(part, f.name, tyro.MISSING if given is MISSING else given)
    return part


def _check_setting(owner: Any, path: list[str]) -> None:
    """Raise an error for a setting that its part does not have, and for an option that is itself a part."""
    kind = ""
    for depth, name in enumerate(path):
        if isinstance(owner, Spec) and kind:
            own = name if hasattr(owner, name) else name.removeprefix("no_")  # --guide.no-conditioned
            check_setting(kind, name_of(owner), own)
        kind, owner = kind_of_part(owner, name), getattr(owner, name, None)
        if depth == len(path) - 1 and kind:
            part = ".".join(path)
            raise FlowvaeError(f"--{part}: is a part; name it as {part}:NAME, and its settings as --{part}.SETTING.")


def _check_switch(owner: Any, option: str, value: str) -> None:
    """Raise an error for true or false after a boolean option, which takes no value."""
    found = SETTING.fullmatch(option)
    if found is None or value.lower() not in ("true", "false"):
        return
    for name in _path(found.group(1)):
        owner = getattr(owner, name, None)
    if isinstance(owner, bool):
        head, dot, last = found.group(1).rpartition(".")
        meant = option if value.lower() == "true" else f"--{head}{dot}no-{last}"
        raise FlowvaeError(f"{option} {value}: takes no value; write {meant}.")


def _path(text: str) -> list[str]:
    return text.replace("-", "_").split(".")
