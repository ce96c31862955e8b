"""What `flowvae list` prints: every family with its paper, its roles and its costs."""

from __future__ import annotations

from dataclasses import dataclass

from tabulate import tabulate

from flowvae.experiments.families import ANY_FLOW, GUIDES, PRIORS

__all__ = ["Row", "format_rows", "table"]


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
    """Every prior and guide family with its default settings, at this latent size; of a flow, one way round."""
    families = {name: family for name, (_, family) in PRIORS.items() if name not in ANY_FLOW}
    families |= {name: flow for name, (_, flow) in ANY_FLOW.items() if not name.startswith("inverse-")}
    families |= {name: guide for name, (_, guide) in GUIDES.items() if name not in ANY_FLOW}
    rows = []
    for name, family in families.items():
        cost = family.cost(latent)
        roles = getattr(family, "roles", ("posterior",))
        proper = getattr(family, "proper", True)
        rows.append(
            Row(name, family.title, family.paper, roles, proper, cost.density, cost.sample, cost.sample_and_density)
        )
    return rows


def format_rows(rows: list[Row]) -> str:
    """The table of families as aligned text, and which of them may be inverted."""
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
    turned = [row.name for row in rows if f"inverse-{row.name}" in ANY_FLOW]
    return (
        f"{tabulate(cells, head, tablefmt='plain')}\n\n"
        f"inverse-NAME exchanges the two directions, their costs and the roles, for NAME one of: {', '.join(turned)}."
    )
