"""Checks that all figures of a table share one protocol: data, split and quantity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from flowvae.core.errors import FlowvaeError, one_line
from flowvae.core.parts import Condition
from flowvae.data import Dataset, identity_of
from flowvae.experiments.experiment import Experiment

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["check_arms", "check_pair", "check_table", "protocol_of"]


def protocol_of(data: Dataset, condition: Condition | None) -> dict[str, str]:
    """Return the protocol that comparable figures share: a description, "protocol", and the data's checksum, "sha256".

    If the splits are drawn at random, the checksum differs between seeds; the description does not.
    """
    identity = identity_of(data, condition)
    quantity = "P(x" if data.likelihood.discrete else "density p(x"
    given = "" if condition is None else f" given {condition.on}"
    measured = "valid" if data.test is data.valid else "test"
    sizes = f"{len(data.train)} training and {len(data.test)} {measured} data"
    words = f"{identity.name}: {identity.preprocessing}; {sizes}; {quantity}{given})"
    return {"protocol": words, "sha256": identity.sha256}


def check_arms(arms: Mapping[str, Experiment], data: Dataset, seed: int) -> None:
    """Check that all arms share one protocol, before any is run.

    Args:
        arms: experiments by name.
        data: data of the first arm at this seed.
        seed: seed of the data's splits.

    Raises:
        FlowvaeError: for an arm with other data or another quantity than the first.
    """
    label, first = next(iter(arms.items()))
    shared = protocol_of(data, first.condition)
    for name, arm in arms.items():
        if arm.data == first.data and arm.condition == first.condition:
            continue
        own = protocol_of(data if arm.data == first.data else arm.data.load(seed), arm.condition)
        if own != shared:
            _refuse(f"arm {name}", own, f"arm {label}", shared)


def check_table(table: pd.DataFrame) -> None:
    """Check that all rows of a table of runs have one protocol.

    Args:
        table: one row per run, with the columns arm and protocol; without the latter, nothing is checked.

    Raises:
        FlowvaeError: for two protocols.
    """
    if "protocol" not in table:
        return
    first = table.iloc[0] if len(table) else None
    for _, row in table.iterrows():
        if first is not None and row["protocol"] != first["protocol"]:
            _refuse(
                f"arm {row['arm']}",
                {"protocol": row["protocol"]},
                f"arm {first['arm']}",
                {"protocol": first["protocol"]},
            )


def check_pair(table: pd.DataFrame, arm: str, against: str) -> None:
    """Check that two arms have been measured on the same data at every seed that they share.

    Args:
        table: one row per run, with the columns arm, seed, protocol and sha256; without the latter two, nothing is
            checked.
        arm: name of an arm.
        against: name of the other arm.

    Raises:
        FlowvaeError: for a seed with two protocols or two checksums.
    """
    if not {"protocol", "sha256"} <= set(table.columns):
        return
    by_seed = {name: rows.set_index("seed") for name, rows in table.groupby("arm")}
    one, other = by_seed[arm], by_seed[against]
    for seed in one.index.intersection(other.index):
        mine, theirs = (
            {str(name): str(value) for name, value in rows.loc[seed, ["protocol", "sha256"]].items()}
            for rows in (one, other)
        )
        if mine != theirs:
            _refuse(f"arm {arm}, seed {seed}", mine, f"arm {against}", theirs)


def _refuse(name: str, protocol: Mapping[str, str], other: str, others: Mapping[str, str]) -> None:
    def said(one: Mapping[str, str]) -> str:
        checksum = f", sha256 {one['sha256']}" if "sha256" in one else ""
        return one_line(one["protocol"]) + checksum

    raise FlowvaeError(
        f"{name} is measured on {said(protocol)}, {other} on {said(others)}: figures of two protocols cannot be "
        "compared; ask a question for each."
    )
