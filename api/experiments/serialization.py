"""Specs as plain values and back: what YAML, checkpoints and names of cells hold."""

from __future__ import annotations

from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

from flowvae.core.errors import FlowvaeError, nearest, plain_number, shown
from flowvae.data import DataSpec, LikelihoodSpec
from flowvae.experiments.families import ANY_FLOW, FLOWS, check_family, families_of, name_of
from flowvae.flows import FlowSpec, Inverse
from flowvae.guides import FlowGuide, GuideSpec
from flowvae.inference import Training
from flowvae.models import FlowDecoder
from flowvae.networks import MLP

__all__ = ["build_spec", "check_setting", "from_plain", "to_plain"]

# parts that are settings alone, without a family to choose
SETTINGS: dict[str, type] = {"encoder": MLP, "decoder": MLP, "mlp": MLP, "inference": Training}


def to_plain(spec: Any) -> Any:
    """A spec as dictionaries, lists and plain values, as YAML and JSON hold them.

    Raises:
        FlowvaeError: for a prior, guide, flow or data set that has no name, or a value that is not plain.

    >>> from flowvae.flows import MAF
    >>> to_plain(Inverse(MAF(transforms=1)))
    {'family': 'inverse-maf', 'transforms': 1, 'hidden_features': [32]}
    """
    spec = plain_number(spec)
    if isinstance(spec, LikelihoodSpec | Path):
        return str(spec)
    if isinstance(spec, tuple):
        return [to_plain(value) for value in spec]
    if spec is None or type(spec) in (bool, int, float, str):
        return spec
    if not is_dataclass(spec) or isinstance(spec, type):
        raise FlowvaeError(
            f"{shown(spec)}: cannot be written to a file; a setting is a number, a text or a tuple of them."
        )
    values = {f.name: to_plain(getattr(spec, f.name)) for f in fields(spec)}
    if not (isinstance(spec, DataSpec | GuideSpec) or hasattr(spec, "roles")):  # roles: of a flow or another prior
        return values
    inner = {}
    if isinstance(spec, FlowGuide | Inverse):
        # the flow inside gives its settings to the one line that names both
        inner = {key: value for key, value in values.pop("flow").items() if key != "family"}
    return {"family": name_of(spec), **inner, **values}


def from_plain(kind: str, plain: Any) -> Any:
    """A part from plain values: a name, or a dictionary with `family` and its settings, or settings alone.

    Args:
        kind: "data", "prior", "guide", "flow", "encoder", "decoder" or "inference"; what comes before a dot says whose.
        plain: the values.

    Raises:
        FlowvaeError: for an unknown family or a setting that the family does not have.

    >>> from_plain("prior", {"family": "maf", "transforms": 5})
    MAF(transforms=5, hidden_features=(32,))
    >>> from_plain("second_stage.inference", {"epochs": 5}).epochs
    5
    """
    part = kind.rpartition(".")[2]
    if part in SETTINGS:
        return _from_settings(kind, SETTINGS[part], plain)
    families = families_of(kind)
    if isinstance(plain, str):
        plain = {"family": plain}
    if not isinstance(plain, dict) or not isinstance(plain.get("family"), str):
        raise FlowvaeError(f"{kind}: {shown(plain)}; must name a family. {nearest('', families)}")
    settings = dict(plain)
    name = settings.pop("family")
    check_family(kind, name)
    for setting in settings:
        check_setting(kind, name, setting)
    label = f"{kind} {name}"
    if name in ANY_FLOW and kind in ("prior", "flow"):
        return _flow(label, name, settings)
    if name in ANY_FLOW:
        own = {f.name for f in fields(FlowGuide)} - {"flow"}
        flow = _flow(label, name, {key: value for key, value in settings.items() if key not in own})
        return FlowGuide(flow, **{key: value for key, value in settings.items() if key in own})
    family = families[name] if kind == "data" else type(families[name][1])
    return build_spec(label, family, settings)


def _from_settings(label: str, spec: type, plain: Any) -> Any:
    if not isinstance(plain, dict):
        raise FlowvaeError(f"{label}: {shown(plain)}; must be settings by name.")
    if label != "decoder" or "flow" not in plain:
        return build_spec(label, spec, plain)
    settings = {**plain, "flow": from_plain("flow", plain["flow"])}
    if "mlp" in plain:
        settings["mlp"] = from_plain("decoder.mlp", plain["mlp"])
    return build_spec(label, FlowDecoder, settings)


def _flow(label: str, name: str, settings: dict[str, Any]) -> FlowSpec:
    plain: FlowSpec = build_spec(label, FLOWS[name.removeprefix("inverse-")], settings)
    return Inverse(plain) if name.startswith("inverse-") else plain


def check_setting(kind: str, name: str, setting: object) -> None:
    """Refuse a setting that a family does not have, and say which family has it.

    Raises:
        FlowvaeError: for such a setting.
    """
    families = families_of(kind)
    known = _settings(kind, families[name])
    if setting not in known:
        owners = [other for other, entry in families.items() if setting in _settings(kind, entry)]
        owned = f" it is a setting of {', '.join(owners)}." if owners else ""
        raise FlowvaeError(f"{kind} {name}: no setting {shown(setting)};{owned} {nearest(setting, known)}")


def build_spec(label: str, family: type, settings: dict[str, Any]) -> Any:
    """An instance of a spec from its settings.

    Raises:
        FlowvaeError: for a setting that it does not have, or one that it needs.
    """
    known = {f.name: f for f in fields(family)}
    for setting in settings:
        if setting not in known:
            raise FlowvaeError(f"{label}: no setting {shown(setting)}; {nearest(setting, known)}")
    for setting, f in known.items():
        if setting not in settings and f.default is MISSING and f.default_factory is MISSING:
            raise FlowvaeError(f"{label}: the setting {setting!r} must be given.")
    # a file has lists where a spec has tuples
    given = {name: _tuple(value) if type(known[name].default) is tuple else value for name, value in settings.items()}
    return family(**given)


def _tuple(value: Any) -> Any:
    return tuple(_tuple(entry) for entry in value) if isinstance(value, list) else value


def _settings(kind: str, entry: Any) -> list[str]:
    """Names of all settings of a family, those of a flow inside it included."""
    spec = entry if kind == "data" else entry[1]
    names = []
    for f in fields(spec):
        inner = getattr(spec, f.name, None)
        names += _settings("flow", (None, inner)) if isinstance(inner, FlowSpec) else [f.name]
    return names
