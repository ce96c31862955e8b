"""Tables of `flowvae list`: registered families, measures and questions, and the costs of flows, priors and guides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from flowvae.cli.parse import likelihood_forms
from flowvae.cli.words import kind_of_part
from flowvae.comparisons import QUESTIONS
from flowvae.core.errors import FlowvaeError, nearest, shown
from flowvae.core.registry import families, kinds
from flowvae.evaluation import MEASURES
from flowvae.experiments.experiment import Experiment

__all__ = [
    "COSTLY",
    "Entry",
    "Row",
    "aliases",
    "catalogue",
    "entries",
    "format_entries",
    "format_rows",
    "kind_named",
    "table",
]

COSTLY = ("prior", "flow", "guide")  # kinds with costs in network passes


@dataclass(frozen=True)
class Entry:
    """One line of `flowvae list`.

    Args:
        kind: kind of part, or "measure" or "question".
        name: registered name.
        title: short description.
        paper: the source; empty if there is none.
    """

    kind: str
    name: str
    title: str
    paper: str


@dataclass(frozen=True)
class Row:
    """A prior, a flow or a guide, and its network passes at a latent size.

    Args:
        name: registered name.
        title: short description.
        paper: the source; empty if there is none.
        roles: its possible roles, "prior" and "posterior".
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


def catalogue() -> tuple[str, ...]:
    """Return all kinds of entries of `flowvae list`: the kinds of parts, measures and questions."""
    return (*COSTLY, *(kind for kind in kinds() if kind not in COSTLY), "measure", "question")


def aliases() -> dict[str, str]:
    """Map parts of an experiment whose names differ from their kinds, such as encoder, to the kind, such as network."""
    experiment = Experiment()
    named = {f.name: kind_of_part(owner, f.name) for owner in (experiment, experiment.inference) for f in fields(owner)}
    return {name: kind for name, kind in named.items() if kind in kinds() and name not in catalogue()}


def kind_named(word: str) -> str:
    """Return the kind for a word of the command line, such as network for encoder.

    Raises:
        FlowvaeError: for a word that is not in the catalogue.
    """
    kind = aliases().get(word, word)
    if kind not in catalogue():
        raise FlowvaeError(f"list {shown(word)}: {nearest(word, (*catalogue(), *aliases()))}")
    return kind


def entries(kind: str) -> list[Entry]:
    """Return all entries of a kind, without families of a wrapper such as inverse-NAME."""
    if kind == "measure":
        return [Entry(kind, name, _first_line(measure), "") for name, measure in MEASURES.items()]
    if kind == "question":
        return [Entry(kind, name, question.asks, "") for name, question in QUESTIONS.items()]
    found = []
    for family in families(kind).values():
        spec = family.type if family.default is None else family.default
        if not spec.wraps:
            title = spec.title or _first_line(family.type)
            form = likelihood_forms().get(family.name, "") if kind == "likelihood" else ""
            found.append(Entry(kind, family.name, f"{title}; {form}" if ":" in form else title, spec.paper))
    return found


def table(latent: int, kind: str = "") -> list[Row]:
    """Return a row for every prior, flow and guide with default settings at this latent size; inverses are left out.

    Args:
        latent: size of the code.
        kind: "prior", "flow" or "guide", to list only this kind; empty: all.
    """
    rows = []
    for name, part in _parts(kind).items():
        cost = part.cost(latent)
        roles = getattr(part, "roles", ("posterior",))
        proper = getattr(part, "proper", True)
        rows.append(
            Row(name, part.title, part.paper, roles, proper, cost.density, cost.sample, cost.sample_and_density)
        )
    return rows


def _parts(kind: str) -> Mapping[str, Any]:
    """Return parts with default settings by name; a guide that wraps a flow appears as the flow."""
    known = {**families("prior"), **families("flow"), **families("guide")}
    parts = {name: family.default for name, family in known.items() if family.default is not None}
    parts = {name: part for name, part in parts.items() if not part.wraps}
    flows = {name: family.default for name, family in families("flow").items() if family.default is not None}
    parts |= {name: flow for name, flow in flows.items() if not flow.wraps}
    return {name: part for name, part in parts.items() if not kind or name in families(kind)}


def format_rows(rows: list[Row]) -> str:
    """Format the table of costs, and list the flows that can be inverted."""
    from tabulate import tabulate

    cells = [
        (
            row.name,
            row.density,
            row.sample,
            row.sample_and_density,
            ", ".join(row.roles),
            row.paper,
            row.title if row.proper else f"{row.title} (not normalized beyond a box)",
        )
        for row in rows
    ]
    head = ("name", "density", "sample", "both", "may be", "paper", "what it is")
    inverses = [row.name for row in rows if f"inverse-{row.name}" in families("flow")]
    return (
        f"{tabulate(cells, head, tablefmt='plain')}\n\n"
        f"inverse-NAME exchanges the two directions, their costs and the roles, for NAME one of: {', '.join(inverses)}."
    )


def format_entries(found: list[Entry]) -> str:
    """Format names, papers and titles as an aligned table."""
    from tabulate import tabulate

    papers = any(entry.paper for entry in found)
    cells = [(entry.name, entry.paper, entry.title) if papers else (entry.name, entry.title) for entry in found]
    return tabulate(cells, ("name", "paper", "what it is") if papers else ("name", "what it is"), tablefmt="plain")


def _first_line(documented: Any) -> str:
    return (documented.__doc__ or "").strip().partition("\n")[0].rstrip(".")
