"""Registry of families of parts by name: defining a named spec class registers it."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from typing import Any, ClassVar

from flowvae.core.errors import FlowvaeError, nearest, shown

__all__ = ["Family", "Spec", "families", "find", "kinds", "name_of"]

NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
RESERVED = ("part", "family", "wraps", "prefix", "naming", "refuses")  # attributes of Spec itself

_CLASSES: dict[str, dict[str, type[Spec]]] = {}  # by kind and name
_WRAPPERS: dict[str, list[type[Spec]]] = {}  # by kind
_PACKAGES: list[str] = []  # to import before the first look-up


class Spec:
    """Settings of a part: derive a frozen dataclass from the spec of its kind, and give it a name.

        @dataclass(frozen=True)
        class Shear(FlowSpec, name="shear"): ...

    The name can then be used in YAML and on the command line, and is listed by `flowvae list`. Defining the class
    again, such as in a notebook cell that runs twice, replaces it.

    Args:
        kind: the kind of the parts that derive from this class ("flow", "prior", …); only for the root of a kind.
        name: name of this family: lower-case letters, digits and hyphens.
        wraps: the kind of part that this family wraps, in the field of that name; one name is then registered for each
            family of that kind.
        prefix: prefix of these names.

    Raises:
        FlowvaeError: for a name that is invalid or taken by another class, and a setting with the name of an attribute
            of `Spec`.
    """

    part: ClassVar[str] = ""  # the kind
    family: ClassVar[str] = ""  # the name
    wraps: ClassVar[str] = ""
    prefix: ClassVar[str] = ""
    title: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    naming: ClassVar[str] = ""  # remedy for a part whose class cannot be named

    def __init_subclass__(cls, *, kind: str = "", name: str = "", wraps: str = "", prefix: str = "") -> None:
        super().__init_subclass__()
        if not cls.__module__.startswith("flowvae."):
            _import_packages()  # flowvae's own names are registered first, so that they cannot be taken
        for setting, annotation in vars(cls).get("__annotations__", {}).items():
            if setting in RESERVED and "ClassVar" not in str(annotation):
                raise FlowvaeError(f"class {cls.__name__}: no setting can be called {setting!r}; choose another word.")
        if "__dataclass_fields__" in vars(cls):  # dataclass(slots=True) creates the class again without these
            name, wraps, prefix = (vars(cls).get(word, "") for word in ("family", "wraps", "prefix"))
        cls.family, cls.wraps, cls.prefix = name, wraps, prefix
        if kind:
            cls.part = kind
        if name:
            _register(cls, name)
        elif wraps:
            for one in _kinds(cls):
                others = [other for other in _WRAPPERS.get(one, []) if not _is_same(cls, other)]
                _WRAPPERS[one] = [*others, cls]
            _clear()

    def refuses(self, kind: str) -> str:
        """Return the reason why this part cannot be used as that kind; empty if it can."""
        return ""


@dataclass(frozen=True)
class Family:
    """A named family of parts.

    Args:
        name: name of the family.
        type: the class, or the parametrized type of a wrapper.
        default: the part with default settings; None if a setting has no default.
        why_not: the reason why it cannot be used as this kind; empty if it can.
    """

    name: str
    type: Any
    default: Any
    why_not: str = ""


def discover(package: str) -> None:
    """Add a package whose modules define families; they are imported at the first look-up of a name."""
    _PACKAGES.append(package)
    _clear()


def _import_packages() -> None:
    """Import every module of the packages, which registers the specs that they define."""
    for name in tuple(_PACKAGES):
        for module in pkgutil.walk_packages(importlib.import_module(name).__path__, f"{name}."):
            importlib.import_module(module.name)
        if name in _PACKAGES:  # a module may look up a name while it is imported
            _PACKAGES.remove(name)


def _clear() -> None:
    families.cache_clear()
    _entries.cache_clear()


@cache
def _entries(kind: str) -> Mapping[str, Family]:
    _import_packages()
    found: dict[str, Family] = {}
    for name, family in _CLASSES.get(kind, {}).items():
        default = _default(family)
        found[name] = Family(name, family, default, "" if default is None else default.refuses(kind))
    for wrapper in _WRAPPERS.get(kind, []):
        for inner in list(_entries(wrapper.wraps).values() if wrapper.wraps != kind else found.values()):
            name = wrapper.prefix + inner.name
            if inner.default is None or isinstance(inner.default, wrapper) or name in found:
                continue
            try:
                default = wrapper(**{wrapper.wraps: inner.default})
            except FlowvaeError as error:
                found[name] = Family(name, wrapper, None, str(error).rstrip("."))
                continue
            found[name] = Family(name, wrapper[inner.type], default, default.refuses(kind))  # type: ignore[index]
    return found


def kinds() -> tuple[str, ...]:
    """List the kinds of parts."""
    _import_packages()
    return tuple(_CLASSES)


@cache
def families(kind: str) -> Mapping[str, Family]:
    """List the families of a kind by name, flowvae's own first."""
    usable = [family for family in _entries(kind).values() if not family.why_not]
    ours = [family for family in usable if _is_ours(family)]
    return {family.name: family for family in [*ours, *(family for family in usable if family not in ours)]}


def find(kind: str, name: str) -> Family:
    """Find the family of a kind by its name.

    Raises:
        FlowvaeError: for an unknown name, with the nearest known one, or a family that cannot be used as this kind.
    """
    known = families(kind)
    if name in known:
        return known[name]
    refused = _entries(kind).get(name)
    if refused is not None:
        raise FlowvaeError(f"{kind} {name}: this family cannot be a {kind}: {refused.why_not}.")
    raise FlowvaeError(
        f"{kind}: unknown family {shown(name)}; {nearest(name, known)} For a user-defined {kind}, import its "
        "module first (--import MODULE)."
    )


def name_of(spec: Any) -> str:
    """Return the registered name of a part.

    Raises:
        FlowvaeError: for an object whose class has no name, or has been redefined since the object was created.
    """
    if isinstance(spec, Spec):
        if spec.wraps:
            return spec.prefix + name_of(getattr(spec, spec.wraps))
        if spec.family and any(_CLASSES[kind].get(spec.family) is type(spec) for kind in _kinds(type(spec))):
            return spec.family
    remedy = getattr(spec, "naming", "") or (
        f'name its class, as in class {type(spec).__name__}(…, name="a-name") (and create the object again if the '
        "class has been defined again)"
    )
    raise FlowvaeError(
        f"{shown(spec)}: has no name, which loading a stored run needs. Either {remedy}, or train without a directory, "
        "so that nothing is stored."
    )


def _register(cls: type[Spec], name: str) -> None:
    label = f"class {cls.__name__}(…, name={shown(name)})"
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise FlowvaeError(f"{label}: must be lower-case letters, digits and hyphens, such as 'my-flow'.")
    kinds = _kinds(cls)
    if not kinds:
        raise FlowvaeError(f"{label}: derive it from the spec of a kind, such as FlowSpec or LikelihoodSpec.")
    for kind in kinds:
        prefixes = [wrapper.prefix for wrapper in _WRAPPERS.get(kind, []) if wrapper.prefix]
        other = _CLASSES.get(kind, {}).get(name)
        if any(name.startswith(prefix) for prefix in prefixes):
            raise FlowvaeError(f"{label}: must not begin with {prefixes[0]}, which names the inverse of a flow.")
        if other is not None and not _is_same(cls, other):
            raise FlowvaeError(f"{label}: is the name of another {kind}, {other.__name__}; choose a different name.")
    for kind in kinds:
        _CLASSES.setdefault(kind, {})[name] = cls
    _clear()


def _kinds(cls: type[Spec]) -> list[str]:
    """Return the kinds of a class; a flow, for example, is also a prior."""
    return [vars(base)["part"] for base in cls.__mro__ if vars(base).get("part")]


def _default(family: type[Spec]) -> Any:
    own = vars(family).get("__dataclass_params__")
    if not is_dataclass(family) or own is None or not own.frozen:
        raise FlowvaeError(
            f"{family.__name__} (name {family.family!r}): put @dataclass(frozen=True) before the class, so that its "
            "settings can be read and stored."
        )
    if missing := sorted(getattr(family, "__abstractmethods__", ())):
        raise FlowvaeError(f"{family.__name__} (name {family.family!r}): has no {' and no '.join(missing)}; define it.")
    if any(f.default is MISSING and f.default_factory is MISSING for f in fields(family)):
        return None
    return family()


def _is_same(cls: type, other: type) -> bool:
    """Whether two classes are the same one, defined twice or copied by dataclass(slots=True)."""
    own = vars(cls).get("__dataclass_fields__", cls)
    same_name = (cls.__module__, cls.__qualname__) == (other.__module__, other.__qualname__)
    return same_name or own is vars(other).get("__dataclass_fields__")


def _is_ours(family: Family) -> bool:
    inner = family.default
    while isinstance(inner, Spec) and inner.wraps:
        inner = getattr(inner, inner.wraps)
    return (family.type if inner is None else type(inner)).__module__.startswith("flowvae.")
