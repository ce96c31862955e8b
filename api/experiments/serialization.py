"""Conversion of specs to plain values and back, for YAML, checkpoints and the names of cells."""

from __future__ import annotations

import types
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from flowvae.core.errors import FlowvaeError, nearest, plain_number, shown
from flowvae.core.parts import LikelihoodSpec
from flowvae.core.registry import Family, Spec, families, find, name_of
from flowvae.data import parse_likelihood

__all__ = ["build_spec", "check_setting", "from_plain", "read_setting", "to_plain"]


def to_plain(spec: Any) -> Any:
    """Convert a spec to dictionaries, lists and plain values, for YAML and JSON.

    Raises:
        FlowvaeError: for a part that has no name, or a value that is not plain.

    >>> from flowvae.flows import MAF, Inverse
    >>> to_plain(Inverse(MAF(transforms=1)))
    {'family': 'inverse-maf', 'transforms': 1, 'hidden_features': [32]}
    """
    spec = plain_number(spec)
    if isinstance(spec, Path):
        return str(spec)
    if isinstance(spec, LikelihoodSpec):
        name_of(spec)  # raises an error for a likelihood without a name
        return str(spec)
    if isinstance(spec, tuple):
        return [to_plain(value) for value in spec]
    if spec is None or type(spec) in (bool, int, float, str):
        return spec
    if not is_dataclass(spec) or isinstance(spec, type):
        raise FlowvaeError(
            f"{shown(spec)}: cannot be written to a file; a setting is a number, a text or a tuple of them."
        )
    name = {"family": name_of(spec)} if isinstance(spec, Spec) and type(spec).part else {}
    values = {f.name: to_plain(getattr(spec, f.name)) for f in fields(spec) if f.init and not _omitted(spec, f)}
    if isinstance(spec, Spec) and spec.wraps:
        # one family name stands for wrapper and wrapped part, so their settings are merged
        inner = {key: value for key, value in values.pop(spec.wraps).items() if key != "family"}
        return {**name, **inner, **values}
    return {**name, **values}


def _omitted(spec: Any, f: Field[Any]) -> bool:
    """Whether a setting with its default value is left out, so that older files and names of cells stay valid."""
    default = f.default_factory() if f.default_factory is not MISSING else f.default
    return bool(f.metadata.get("omit_default")) and bool(getattr(spec, f.name) == default)


def from_plain(kind: str, plain: Any, label: str = "", default: Spec | None = None) -> Any:
    """Create a part from plain values: a name, or a dictionary with `family` and its settings.

    Args:
        kind: "data", "prior", "guide", "flow", "network", "likelihood", ….
        plain: the values.
        label: label of the part, for messages; by default the kind.
        default: the part whose family is used if the values do not name one.

    Raises:
        FlowvaeError: for an unknown family or a setting that the family does not have.

    >>> from_plain("prior", {"family": "maf", "transforms": 5})
    MAF(transforms=5, hidden_features=(32,))
    """
    label = label or kind
    if isinstance(plain, str):
        if kind == "likelihood":
            return parse_likelihood(plain)
        plain = {"family": plain}
    if isinstance(plain, dict) and "family" not in plain and default is not None:
        plain = {"family": name_of(default), **plain}
    if not isinstance(plain, dict) or not isinstance(plain.get("family"), str):
        raise FlowvaeError(f"{label}: {shown(plain)}; must name a family. {nearest('', families(kind))}")
    settings = dict(plain)
    name = settings.pop("family")
    family = find(kind, name)
    for setting in settings:
        check_setting(kind, name, setting)
    return _build(f"{label} {name}", family, settings)


def _build(label: str, family: Family, settings: dict[str, Any]) -> Any:
    wrapper = family.default
    if not (isinstance(wrapper, Spec) and wrapper.wraps):
        return build_spec(label, family.type, settings)
    own = {f.name for f in fields(wrapper)} - {wrapper.wraps}  # type: ignore[arg-type]
    inner = find(wrapper.wraps, family.name.removeprefix(wrapper.prefix))
    part = _build(label, inner, {key: value for key, value in settings.items() if key not in own})
    given = {key: value for key, value in settings.items() if key in own}
    return build_spec(label, type(wrapper), {wrapper.wraps: part, **given})


def check_setting(kind: str, name: str, setting: object) -> None:
    """Check that a family has a setting.

    Raises:
        FlowvaeError: if it does not, with the families that have it.
    """
    known = _settings(find(kind, name))
    if setting not in known:
        owners = [family.name for family in families(kind).values() if setting in _settings(family)]
        owned = f" it is a setting of {', '.join(owners)}." if owners else ""
        raise FlowvaeError(f"{kind} {name}: no setting {shown(setting)};{owned} {nearest(setting, known)}")


def build_spec(label: str, family: type, settings: dict[str, Any]) -> Any:
    """Create an instance of a dataclass of settings; settings that are parts are read from plain values.

    Raises:
        FlowvaeError: for an unknown or a missing setting.
    """
    known = {f.name: f for f in fields(family) if f.init}
    for setting in settings:
        if setting not in known:
            raise FlowvaeError(f"{label}: no setting {shown(setting)}; {nearest(setting, known)}")
    for setting, f in known.items():
        if setting not in settings and f.default is MISSING and f.default_factory is MISSING:
            raise FlowvaeError(f"{label}: the setting {setting!r} must be given.")
    inside = "" if label == "experiment" else f"{label}."
    return family(**{name: read_setting(family, name, value, inside + name) for name, value in settings.items()})


def read_setting(family: type, name: str, plain: Any, label: str) -> Any:
    """Read one setting of a dataclass from its plain value.

    Raises:
        FlowvaeError: for an unknown family or setting of a part.
    """
    (setting,) = (f for f in fields(family) if f.name == name)
    default = setting.default_factory() if setting.default_factory is not MISSING else setting.default
    return _read(label, _hints(family).get(name), plain, default)


def _read(label: str, hint: Any, plain: Any, default: Any) -> Any:
    """Read a setting from its plain value."""
    if type(default) is tuple:
        return _tuple(plain)  # a file has lists where a spec has tuples
    hints = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    for one in hints:
        if plain is None or isinstance(plain, Spec) or not isinstance(one, type):
            continue
        if issubclass(one, Spec) and one.part and isinstance(plain, str | dict):
            kind = one.part
            return from_plain(kind, plain, label, default if isinstance(default, Spec) else None)
        if is_dataclass(one) and not isinstance(plain, one):
            if not isinstance(plain, dict):
                names = ", ".join(f.name for f in fields(one))
                raise FlowvaeError(f"{label}: {shown(plain)}; must be settings by name: {names}.")
            return build_spec(label, one, plain)
    return _tuple(plain) if tuple in hints or any(get_origin(one) is tuple for one in hints) else plain


def _hints(family: type) -> dict[str, Any]:
    try:
        return get_type_hints(family)
    except NameError:  # annotations of a class that was defined inside a function
        return {f.name: f.type for f in fields(family)}


def _tuple(value: Any) -> Any:
    return tuple(_tuple(entry) for entry in value) if isinstance(value, list) else value


def _settings(family: Family) -> list[str]:
    """Return the names of all settings of a family, including those of a wrapped part."""
    spec = family.type if family.default is None else family.default
    names = []
    for f in fields(spec):
        if f.name == spec.wraps:
            inner = getattr(spec, f.name)
            names += _settings(find(spec.wraps, name_of(inner)))
        elif f.init:
            names.append(f.name)
    return names
