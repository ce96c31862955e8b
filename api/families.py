"""The names by which parts are swapped: one table for Python, YAML and the command line."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from flowvae.data import Arrays, DataSpec, Digits, LikelihoodSpec, Pinwheel, Sprites, StaticMNIST
from flowvae.errors import FlowvaeError, nearest
from flowvae.flows import (
    BPF,
    CNF,
    GF,
    IAF,
    MAF,
    NAF,
    NICE,
    NSF,
    SOSPF,
    UNAF,
    CouplingNSF,
    FlowSpec,
    Householder,
    Inverse,
    Linear,
    Planar,
    Radial,
    RealNVP,
    Residual,
    Sylvester,
    check_flow,
)
from flowvae.guides import FlowGuide, FullRank, Gaussian, GuideSpec, SemiAmortized
from flowvae.models import Mixture, StandardNormal

__all__ = [
    "DATA",
    "FLOWS",
    "GUIDES",
    "PRIORS",
    "Row",
    "build_spec",
    "check_family",
    "check_own_flow",
    "check_setting",
    "from_plain",
    "name_of",
    "register_flow",
    "table",
    "to_plain",
]

DATA: dict[str, type] = {
    "digits": Digits,
    "pinwheel": Pinwheel,
    "sprites": Sprites,
    "static-mnist": StaticMNIST,
    "arrays": Arrays,
}
FLOWS: dict[str, type[FlowSpec]] = {
    "maf": MAF,
    "nsf": NSF,
    "coupling-nsf": CouplingNSF,
    "realnvp": RealNVP,
    "nice": NICE,
    "iaf": IAF,
    "bpf": BPF,
    "cnf": CNF,
    "naf": NAF,
    "unaf": UNAF,
    "sospf": SOSPF,
    "gf": GF,
    "residual": Residual,
    "linear": Linear,
    "radial": Radial,
    "planar": Planar,
    "sylvester": Sylvester,
    "householder": Householder,
}
# name: the type (an Inverse or FlowGuide of a family is a type too) and an object with its default settings
PRIORS: dict[str, tuple[Any, Any]] = {
    "normal": (StandardNormal, StandardNormal()),
    "mixture": (Mixture, Mixture()),
}
GUIDES: dict[str, tuple[Any, Any]] = {
    "gaussian": (Gaussian, Gaussian()),
    "full-rank": (FullRank, FullRank()),
    "semi-amortized": (SemiAmortized, SemiAmortized()),
}
# the flows of both tables, and those of them that are an Inverse
_ANY_FLOW: dict[str, tuple[Any, FlowSpec]] = {}
_TURNED: dict[str, tuple[Any, FlowSpec]] = {}

Flow = TypeVar("Flow", bound=FlowSpec)


def _name_flow(name: str, flow: type[FlowSpec]) -> None:
    """Enter a flow, and its inverse, in every table in which it has a role."""
    for known in (FLOWS, _TURNED, _ANY_FLOW, PRIORS, GUIDES):  # an earlier class of that name
        known.pop(name, None)
        known.pop(f"inverse-{name}", None)
    FLOWS[name] = flow
    named: dict[str, tuple[Any, FlowSpec]] = {name: (flow, flow())}
    if flow.proper and not flow.turned:
        _TURNED[f"inverse-{name}"] = (Inverse[flow], Inverse(flow()))  # type: ignore[valid-type]
        named[f"inverse-{name}"] = _TURNED[f"inverse-{name}"]
    _ANY_FLOW.update(named)
    for key, (kind, default) in named.items():
        if "prior" in default.roles:
            PRIORS[key] = (kind, default)
        if "posterior" in default.roles:
            GUIDES[key] = (FlowGuide[kind], FlowGuide(default))  # type: ignore[valid-type]


for _name, _flow_type in tuple(FLOWS.items()):
    _name_flow(_name, _flow_type)
_OURS = frozenset(PRIORS) | frozenset(GUIDES)
_OUR_FLOWS = frozenset(FLOWS.values())


def register_flow(name: str) -> Callable[[type[Flow]], type[Flow]]:
    """Give a flow of your own a name, by which it is a prior, a guide, a line of YAML and a word of the command line.

    Decorate the frozen dataclass with it. `inverse-NAME` is the flow turned round. YAML holds the name alone: whoever
    reads the file imports the module first; the command line does so with `--import MODULE`. Defining the class again
    (a notebook's cell that runs twice) replaces it.

    Args:
        name: lower-case letters, digits and hyphens.

    Raises:
        FlowvaeError: for a name that is taken or has other characters, or a class that is no flow, has no title or
            paper, or has settings without defaults or with the name of one of `FlowGuide`.
    """

    def give(flow: type[Flow]) -> type[Flow]:
        where = f"register_flow({name!r})"
        if not re.fullmatch(r"[a-z][a-z0-9-]*", name) or name.startswith("inverse-"):
            raise FlowvaeError(f"{where}: must be lower-case letters, digits and hyphens, and not begin with inverse-.")
        if name in _OURS:
            raise FlowvaeError(f"{where}: is the name of another family; choose one that is free.")
        if not (isinstance(flow, type) and issubclass(flow, FlowSpec) and "__dataclass_fields__" in vars(flow)):
            raise FlowvaeError(
                f"{where}: {flow!r} is no flow; derive it from FlowSpec, and put @dataclass(frozen=True) between this "
                "line and the class."
            )
        for wanted in ("title", "paper"):
            if not hasattr(flow, wanted):
                raise FlowvaeError(f"{where}: {flow.__name__} has no {wanted}, which `flowvae list` prints; add one.")
        if unwritten := getattr(flow, "__abstractmethods__", None):
            raise FlowvaeError(f"{where}: {flow.__name__} has no {' and no '.join(sorted(unwritten))}; write it.")
        bare = [f.name for f in fields(flow) if f.default is MISSING and f.default_factory is MISSING]
        if bare:
            raise FlowvaeError(f"{where}: give the setting {bare[0]!r} a default, so that the name alone is enough.")
        # YAML gives the settings of a guide and of its flow one place
        taken = {"family", *(f.name for f in fields(FlowGuide))}
        if double := sorted(taken & {f.name for f in fields(flow)}):
            raise FlowvaeError(f"{where}: the setting {double[0]!r} is also one of FlowGuide; give it another name.")
        _name_flow(name, flow)
        return flow

    return give


def check_own_flow(part: object, latent: int) -> None:
    """Try the flow in a prior or a guide, if it is one of the user's own (see `flowvae.flows.check_flow`).

    Raises:
        FlowvaeError: if it is not what it says it is.
    """
    context = part.context if isinstance(part, FlowGuide) and part.conditioned else 0
    flow = part.flow if isinstance(part, FlowGuide) else part
    flow = flow.flow if isinstance(flow, Inverse) else flow
    if isinstance(flow, FlowSpec) and type(flow) not in _OUR_FLOWS:
        check_flow(flow, latent, context)


@dataclass(frozen=True)
class Row:
    """One line of `flowvae list`: what a family is, and its network passes at a latent size.

    Args:
        name: by which it is swapped.
        title: what it is.
        paper: where it comes from.
        roles: what it may be.
        proper: whether it is a normalized density on all of R^D.
        density: passes for the log-density of a given z.
        sample: passes for a draw.
        sample_and_density: passes for a draw with its own density.
    """

    name: str
    title: str
    paper: str
    roles: tuple[str, ...]
    proper: bool
    density: int
    sample: int
    sample_and_density: int


def table(latent: int) -> list[Row]:
    """Every prior and guide family with its default settings, at this latent size."""
    families = {name: family for name, (_, family) in PRIORS.items() if name not in _ANY_FLOW}
    families |= {name: flow for name, (_, flow) in _ANY_FLOW.items() if name not in _TURNED}
    families |= {name: guide for name, (_, guide) in GUIDES.items() if name not in _ANY_FLOW}
    families["inverse-maf"] = Inverse(MAF())
    rows = []
    for name, family in families.items():
        cost = family.cost(latent)
        roles = getattr(family, "roles", ("posterior",))
        proper = getattr(family, "proper", True)
        rows.append(
            Row(name, family.title, family.paper, roles, proper, cost.density, cost.sample, cost.sample_and_density)
        )
    return rows


def name_of(spec: Any) -> str:
    """The name by which a spec is swapped.

    Raises:
        FlowvaeError: for an object of a class that has no name.

    >>> name_of(FlowGuide(Inverse(NSF()))), name_of(Mixture())
    ('inverse-nsf', 'mixture')
    """
    if isinstance(spec, FlowGuide):
        return name_of(spec.flow)
    if isinstance(spec, Inverse):
        return f"inverse-{name_of(spec.flow)}"
    plain = {**DATA, **FLOWS, "normal": StandardNormal, "mixture": Mixture}
    plain |= {"gaussian": Gaussian, "full-rank": FullRank, "semi-amortized": SemiAmortized}
    for name, family in plain.items():
        if type(spec) is family:
            return name
    raise FlowvaeError(
        f'{spec!r}: has no name, which files and the command line need. Put @register_flow("a-name") before the class '
        "of a flow; after a class was defined anew, make its objects anew."
    )


def to_plain(spec: Any) -> Any:
    """A spec as dictionaries, lists and plain values, as YAML and JSON hold them.

    >>> to_plain(Inverse(MAF(transforms=1)))
    {'family': 'inverse-maf', 'transforms': 1, 'hidden_features': [32]}
    """
    if isinstance(spec, LikelihoodSpec | Path):
        return str(spec)
    if isinstance(spec, tuple):
        return [to_plain(value) for value in spec]
    if not is_dataclass(spec):
        return spec
    values = {f.name: to_plain(getattr(spec, f.name)) for f in fields(spec)}
    if not isinstance(spec, DataSpec | FlowSpec | GuideSpec | StandardNormal | Mixture):
        return values
    # a flow inside a guide or an inverse gives its settings to the one line that names both
    inner = {key: value for key, value in values.pop("flow", {}).items() if key != "family"}
    return {"family": name_of(spec), **inner, **values}


def from_plain(kind: str, plain: Any) -> Any:
    """A prior, guide, flow or data spec from a name, or from a dictionary with `family` and its settings.

    Raises:
        FlowvaeError: for an unknown family or a setting that the family does not have.

    >>> from_plain("prior", {"family": "maf", "transforms": 5})
    MAF(transforms=5, hidden_features=(32,))
    """
    families = _families(kind)
    if isinstance(plain, str):
        plain = {"family": plain}
    if not isinstance(plain, dict) or "family" not in plain:
        raise FlowvaeError(f"{kind}: {plain!r}; must name a family. {nearest('', families)}")
    settings = dict(plain)
    name = str(settings.pop("family"))
    check_family(kind, name)
    for setting in settings:
        check_setting(kind, name, setting)
    label = f"{kind} {name}"
    if name in _ANY_FLOW and kind in ("prior", "flow"):
        return _flow(label, name, settings)
    if name in _ANY_FLOW:
        own = {f.name for f in fields(FlowGuide)} - {"flow"}
        flow = _flow(label, name, {key: value for key, value in settings.items() if key not in own})
        return FlowGuide(flow, **{key: value for key, value in settings.items() if key in own})
    family = families[name] if kind == "data" else type(families[name][1])
    return build_spec(label, family, settings)


def _flow(label: str, name: str, settings: dict[str, Any]) -> FlowSpec:
    plain = build_spec(label, FLOWS[name.removeprefix("inverse-")], settings)
    return Inverse(plain) if name in _TURNED else plain


def check_family(kind: str, name: str) -> None:
    """Refuse a name that is no data set, flow, prior or guide, and say why a flow cannot be one.

    Raises:
        FlowvaeError: for such a name.
    """
    families = _families(kind)
    if name in families:
        return
    if kind != "data" and name in _ANY_FLOW:
        role = "prior" if kind == "prior" else "posterior"
        raise FlowvaeError(f"{kind} {name}: this family cannot be a {role}: {_ANY_FLOW[name][1].why_not}.")
    own = "" if kind == "data" else " A flow of your own: import its module first (--import MODULE)."
    raise FlowvaeError(f"{kind}: unknown family {name!r}; {nearest(name, families)}{own}")


def check_setting(kind: str, name: str, setting: str) -> None:
    """Refuse a setting that a family does not have, and say which family has it.

    Raises:
        FlowvaeError: for such a setting.
    """
    families = _families(kind)
    known = _settings(kind, families[name])
    if setting not in known:
        owners = [other for other, entry in families.items() if setting in _settings(kind, entry)]
        owned = f" it is a setting of {', '.join(owners)}." if owners else ""
        raise FlowvaeError(f"{kind} {name}: no setting {setting!r};{owned} {nearest(setting, known)}")


def build_spec(label: str, family: type, settings: dict[str, Any]) -> Any:
    """An instance of a spec from its settings.

    Raises:
        FlowvaeError: for a setting that it does not have, or one that it needs.
    """
    known = {f.name: f for f in fields(family)}
    for setting in settings:
        if setting not in known:
            raise FlowvaeError(f"{label}: no setting {setting!r}; {nearest(setting, known)}")
    for setting, f in known.items():
        if setting not in settings and f.default is MISSING and f.default_factory is MISSING:
            raise FlowvaeError(f"{label}: the setting {setting!r} must be given.")
    return family(**settings)


def _families(kind: str) -> Mapping[str, Any]:
    tables: dict[str, Mapping[str, Any]] = {"data": DATA, "prior": PRIORS, "guide": GUIDES, "flow": _ANY_FLOW}
    return tables[kind]


def _settings(kind: str, entry: Any) -> list[str]:
    """Names of all settings of a family, those of a flow inside it included."""
    spec = entry if kind == "data" else entry[1]
    names = []
    for f in fields(spec):
        inner = getattr(spec, f.name, None)
        names += _settings("flow", (None, inner)) if isinstance(inner, FlowSpec) else [f.name]
    return names
