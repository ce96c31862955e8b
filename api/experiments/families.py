"""The names by which parts are swapped: the same in Python, in YAML and on the command line."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from flowvae.core.errors import FlowvaeError, nearest, shown
from flowvae.data import Arrays, Digits, Pinwheel, Sprites, StaticMNIST
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
from flowvae.guides import FlowGuide, FullRank, Gaussian, SemiAmortized
from flowvae.models import FlowDecoder, Mixture, StandardNormal

__all__ = [
    "ANY_FLOW",
    "DATA",
    "FLOWS",
    "GUIDES",
    "PRIORS",
    "check_family",
    "check_own_flow",
    "families_of",
    "name_of",
    "register_flow",
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
# every flow in the same form, and as inverse-NAME every one that is proper inverted
ANY_FLOW: dict[str, tuple[Any, FlowSpec]] = {}

Flow = TypeVar("Flow", bound=FlowSpec)


def _name_flow(name: str, flow: type[FlowSpec]) -> None:
    """Enter a flow, and its inverse, in every table in which it has a role."""
    for known in (FLOWS, ANY_FLOW, PRIORS, GUIDES):  # an earlier class of that name
        known.pop(name, None)
        known.pop(f"inverse-{name}", None)
    FLOWS[name] = flow
    named: dict[str, tuple[Any, FlowSpec]] = {name: (flow, flow())}
    if flow.proper and not flow.turned:
        named[f"inverse-{name}"] = (Inverse[flow], Inverse(flow()))  # type: ignore[valid-type]
    ANY_FLOW.update(named)
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

    Decorate the frozen dataclass with it. `inverse-NAME` is its inverse. YAML holds the name alone: whoever
    reads the file imports the module first; the command line does so with `--import MODULE`. Defining the class again
    (a notebook's cell that runs twice) replaces it.

    Args:
        name: lower-case letters, digits and hyphens.

    Raises:
        FlowvaeError: for a name that is taken or has other characters, or a class that is no flow, has no title or
            paper, or has settings without defaults or with the name of one of `FlowGuide`.
    """

    def give(flow: type[Flow]) -> type[Flow]:
        where = f"register_flow({shown(name)})"
        if not (isinstance(name, str) and re.fullmatch(r"[a-z][a-z0-9-]*", name)) or name.startswith("inverse-"):
            raise FlowvaeError(f"{where}: must be lower-case letters, digits and hyphens, and not begin with inverse-.")
        if name in _OURS:
            raise FlowvaeError(f"{where}: is the name of another family; choose one that is free.")
        if not (isinstance(flow, type) and issubclass(flow, FlowSpec) and "__dataclass_fields__" in vars(flow)):
            raise FlowvaeError(
                f"{where}: {shown(flow)} is not a flow; derive it from FlowSpec, and put @dataclass(frozen=True) "
                "between this line and the class."
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
    """Try the flow in a prior, a guide or a decoder, if it is one of the user's own (`flowvae.flows.check_flow`).

    Raises:
        FlowvaeError: if it is not what it says it is.
    """
    context = part.context if isinstance(part, FlowGuide) and part.conditioned else 0
    flow = part.flow if isinstance(part, FlowGuide | FlowDecoder) else part
    flow = flow.flow if isinstance(flow, Inverse) else flow
    if isinstance(flow, FlowSpec) and type(flow) not in _OUR_FLOWS:
        check_flow(flow, latent, context)


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
    others = {name: type(default) for name, (_, default) in (PRIORS | GUIDES).items() if name not in ANY_FLOW}
    for name, family in {**DATA, **FLOWS, **others}.items():
        if type(spec) is family:
            return name
    raise FlowvaeError(
        f'{shown(spec)}: has no name, which files and the command line need. Put @register_flow("a-name") before the '
        "class of a flow; after a class was defined anew, make its objects anew. Other parts of your own have no place "
        "in an experiment: train a model and guide that have them with flowvae.inference.fit."
    )


def check_family(kind: str, name: str) -> None:
    """Refuse a name that is no data set, flow, prior or guide, and say why a flow cannot be one.

    Raises:
        FlowvaeError: for such a name.
    """
    families = families_of(kind)
    if name in families:
        return
    if kind != "data" and name in ANY_FLOW:
        role = "prior" if kind == "prior" else "posterior"
        raise FlowvaeError(f"{kind} {name}: this family cannot be a {role}: {ANY_FLOW[name][1].why_not}.")
    own = "" if kind == "data" else " A flow of your own: import its module first (--import MODULE)."
    raise FlowvaeError(f"{kind}: unknown family {shown(name)}; {nearest(name, families)}{own}")


def families_of(kind: str) -> Mapping[str, Any]:
    """The table of "data", "prior", "guide" or "flow"."""
    tables: dict[str, Mapping[str, Any]] = {"data": DATA, "prior": PRIORS, "guide": GUIDES, "flow": ANY_FLOW}
    return tables[kind]
