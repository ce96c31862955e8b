"""The names by which parts are swapped: one table for Python, YAML and the command line."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from flowvae.data import Arrays, Digits, LikelihoodSpec, Pinwheel
from flowvae.errors import FlowvaeError, nearest
from flowvae.flows import IAF, MAF, NICE, NSF, CouplingNSF, FlowSpec, Inverse, RealNVP
from flowvae.guides import FlowGuide, FullRank, Gaussian
from flowvae.models import Mixture, StandardNormal

__all__ = ["DATA", "FLOWS", "GUIDES", "PRIORS", "Row", "from_plain", "table", "to_plain"]

DATA: dict[str, type] = {"digits": Digits, "pinwheel": Pinwheel, "arrays": Arrays}
FLOWS: dict[str, type[FlowSpec]] = {
    "maf": MAF,
    "nsf": NSF,
    "coupling-nsf": CouplingNSF,
    "realnvp": RealNVP,
    "nice": NICE,
    "iaf": IAF,
    "inverse": Inverse,
}
PRIORS: dict[str, type] = {"normal": StandardNormal, "mixture": Mixture} | {
    name: flow for name, flow in FLOWS.items() if "prior" in flow.roles
}
GUIDES: dict[str, type] = {"gaussian": Gaussian, "full-rank": FullRank, "flow": FlowGuide}

_TABLES = {"data": DATA, "prior": PRIORS, "guide": GUIDES, "flow": FLOWS}


@dataclass(frozen=True)
class Row:
    """One line of `flowvae list`: what a family is, and its network passes at a latent size.

    Args:
        name: by which it is swapped.
        title: what it is.
        paper: where it comes from.
        roles: what it may be.
        density: passes for the log-density of a given z.
        sample: passes for a draw.
        sample_and_density: passes for a draw with its own density.
    """

    name: str
    title: str
    paper: str
    roles: tuple[str, ...]
    density: int
    sample: int
    sample_and_density: int


def table(latent: int) -> list[Row]:
    """Every prior and guide family with its default settings, at this latent size."""
    families: dict[str, Any] = {name: family() for name, family in PRIORS.items() if name != "inverse"}
    families["inverse"] = Inverse(MAF())
    rows = []
    for name, family in families.items():
        cost = family.cost(latent)
        title = f"{family.title} (here MAF)" if name == "inverse" else family.title
        rows.append(
            Row(name, title, family.paper, family.roles, cost.density, cost.sample, cost.sample_and_density)
        )
    for name, guide in (("gaussian", Gaussian()), ("full-rank", FullRank())):
        rows.append(Row(name, guide.title, guide.paper, ("posterior",), 0, 0, 0))
    return rows


def to_plain(spec: Any) -> Any:
    """A spec as dictionaries, lists and plain values, as YAML and JSON hold them."""
    if isinstance(spec, LikelihoodSpec):
        return str(spec)
    if isinstance(spec, Path):
        return str(spec)
    if isinstance(spec, tuple):
        return list(spec)
    if not is_dataclass(spec):
        return spec
    values = {field.name: to_plain(getattr(spec, field.name)) for field in fields(spec)}
    for families in _TABLES.values():
        for name, family in families.items():
            if type(spec) is family:
                return {"family": name, **values}
    return values


def from_plain(kind: str, plain: Any) -> Any:
    """A prior, guide, flow or data spec from a name or a dictionary with `family` and its settings.

    Raises:
        FlowvaeError: for an unknown family or a setting that the family does not have.

    >>> from_plain("prior", {"family": "maf", "transforms": 5})
    MAF(transforms=5, hidden_features=(64, 64))
    """
    families = _TABLES[kind]
    if isinstance(plain, str):
        plain = {"family": plain}
    if not isinstance(plain, dict) or "family" not in plain:
        raise FlowvaeError(f"{kind}: {plain!r}; must name a family. {nearest('', families)}")
    settings = dict(plain)
    name = settings.pop("family")
    if kind == "guide" and name in FLOWS and name not in families:
        settings, name = _flow_guide(name, settings), "flow"
    if name not in families:
        choices = [*families, *FLOWS] if kind == "guide" else families
        raise FlowvaeError(f"{kind}: unknown family {name!r}; {nearest(str(name), choices)}")
    family = families[name]
    if "flow" in settings and family in (FlowGuide, Inverse):
        settings["flow"] = _nested(settings["flow"])
    return build_spec(f"{kind} {name}", family, settings, families)


def build_spec(label: str, family: type, settings: dict[str, Any], families: dict[str, type]) -> Any:
    """An instance of a spec from its settings.

    Raises:
        FlowvaeError: for a setting that it does not have (says which family has it), or one that it needs.
    """
    known = {field.name: field for field in fields(family)}
    for setting in settings:
        if setting not in known:
            owners = [n for n, f in families.items() if setting in {field.name for field in fields(f)}]
            owned = f" It is a setting of {', '.join(owners)}." if owners else ""
            raise FlowvaeError(f"{label}: no setting {setting!r};{owned} {nearest(setting, known)}")
    for setting, field in known.items():
        if setting not in settings and field.default is MISSING and field.default_factory is MISSING:
            raise FlowvaeError(f"{label}: the setting {setting!r} must be given.")
    return family(**settings)


def _nested(flow: Any) -> Any:
    return flow if isinstance(flow, FlowSpec) else from_plain("flow", flow)


def _flow_guide(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """`guide: iaf` is short for a flow guide with that flow; settings go to whichever of the two has them."""
    own = {field.name for field in fields(FlowGuide)} - {"flow"}
    outer = {key: value for key, value in settings.items() if key in own}
    inner = {key: value for key, value in settings.items() if key not in own}
    return {"flow": {"family": name, **inner}, **outer}
