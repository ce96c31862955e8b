"""`flowvae list`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Annotated

import tyro

from flowvae.cli.family_table import COSTLY, aliases, catalogue, entries, format_entries, format_rows, kind_named, table
from flowvae.cli.parse import one_of, parse
from flowvae.core.errors import FlowvaeError

__all__ = ["List", "list_command"]

KindName = Annotated[str, tyro.conf.arg(constructor_factory=one_of(lambda: ("all", *catalogue(), *aliases())))]


@dataclass(frozen=True)
class List:
    """List the families of parts, with papers and costs, the measures and the questions.

    Args:
        kind: what to list; encoder and decoder are networks.
        json: print JSON.
        latent: the latent size at which network passes are counted.
    """

    kind: tyro.conf.Positional[KindName] = "all"
    json: bool = False
    latent: int = 8


def list_command(words: list[str]) -> int:
    """Print the tables."""
    args = parse(List, words, "list")
    if args.latent < 1:
        raise FlowvaeError(f"--latent {args.latent}: must be 1 or more.")
    shown = catalogue() if args.kind == "all" else (kind_named(args.kind),)
    if args.json:
        print(json.dumps([row for kind in shown for row in _plain(kind, args.latent)], indent=2))
        return 0
    if shown[0] in COSTLY:
        print(f"Network passes at latent {args.latent}, default settings.\n")
        print(format_rows(table(args.latent, "" if len(shown) > 1 else shown[0])))
        print("density: of a given code (the cost of a prior in training); sample: one draw;")
        print("both: a draw with its own density (the cost of a guide in training).")
    for kind in shown:
        if kind not in COSTLY:
            print(f"\n{kind}\n\n{format_entries(entries(kind))}" if len(shown) > 1 else format_entries(entries(kind)))
    return 0


def _plain(kind: str, latent: int) -> list[dict[str, object]]:
    """Return the entries of a kind as plain values, with costs for priors, flows and guides."""
    if kind in COSTLY:
        return [{"kind": kind, **asdict(row)} for row in table(latent, kind)]
    return [asdict(entry) for entry in entries(kind)]
