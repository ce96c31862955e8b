"""`flowvae list`: everything that can be named."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from flowvae import MAF, FlowvaeError
from flowvae.cli.command import main
from flowvae.cli.family_table import aliases, catalogue, entries, format_rows, table
from flowvae.comparisons import QUESTIONS
from flowvae.core.parts import NetworkSpec
from flowvae.core.registry import families, find, kinds
from flowvae.evaluation import MEASURES
from flowvae.networks import MLP


def listed(*words: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["list", *words]) == 0
    return capsys.readouterr().out


def test_every_name_of_every_kind_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(listed("--json", capsys=capsys))
    names = {kind: {row["name"] for row in rows if row["kind"] == kind} for kind in catalogue()}
    assert {row["kind"] for row in rows} == {*kinds(), "measure", "question"}
    for kind in kinds():
        assert names[kind] == {name for name in families(kind) if not name.startswith("inverse-")}
    assert names["measure"] == set(MEASURES)
    assert names["question"] == set(QUESTIONS)
    assert all(row["title"] for row in rows)
    text = listed(capsys=capsys)
    assert all(row["name"] in text and row["title"] in text for row in rows)
    assert all(row["paper"] for row in rows if row["kind"] in ("prior", "flow", "guide"))


@pytest.mark.parametrize("kind", catalogue())
def test_one_kind_is_listed_alone(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(listed(kind, "--json", capsys=capsys))
    assert {row["kind"] for row in rows} == {kind}
    text = listed(kind, capsys=capsys)
    assert all(row["title"] in text for row in rows)
    assert ("prior-flows" in text) == (kind == "question")


@pytest.mark.parametrize("word", ["encoder", "decoder"])
def test_a_part_of_an_experiment_lists_its_kind(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert aliases()[word] == "network"
    assert listed(word, capsys=capsys) == listed("network", capsys=capsys)
    assert listed(word, "--json", capsys=capsys) == listed("network", "--json", capsys=capsys)


def test_costs_are_counted_at_the_latent_size(capsys: pytest.CaptureFixture[str]) -> None:
    rows = {row["name"]: row for row in json.loads(listed("prior", "--json", "--latent", "32", capsys=capsys))}
    cost = MAF().cost(32)
    assert (rows["maf"]["density"], rows["maf"]["sample"]) == (cost.density, cost.sample) == (2, 64)
    assert "planar" not in rows  # it can be in a guide alone
    assert "planar" in {row.name for row in table(8, "guide")}
    assert {row.name for row in table(8)} == {row.name for kind in ("prior", "flow", "guide") for row in table(8, kind)}


def test_the_list_says_which_flows_may_be_inverted() -> None:
    rows = table(latent=4)
    (line,) = [line for line in format_rows(rows).splitlines() if line.startswith("inverse-NAME")]
    said = set(line.rstrip(".").partition(": ")[2].split(", "))
    for row in rows:
        if row.name in said:
            inverted = find("flow", f"inverse-{row.name}").default
            assert inverted.flow == find("flow", row.name).default
            assert inverted.cost(4).sample == row.density
        else:
            with pytest.raises(FlowvaeError):
                find("flow", f"inverse-{row.name}")
    assert {"maf", "planar"} <= said


def test_an_own_part_is_listed_by_its_title_or_its_first_line(capsys: pytest.CaptureFixture[str]) -> None:
    @dataclass(frozen=True)
    class Wide(MLP, name="wide"):
        """One layer, as wide as it gets.

        And more of it.
        """

        size: int = 3

    @dataclass(frozen=True)
    class Needy(NetworkSpec, name="needy"):
        """Needs its size."""

        size: int

        build = MLP.build

    found = {entry.name: entry.title for entry in entries("network")}
    assert found["wide"] == "One layer, as wide as it gets"
    assert found["needy"] == "Needs its size"
    assert "as wide as it gets\n" in listed("network", capsys=capsys)


@pytest.mark.parametrize(("words", "parts"), [("flows", ("'flows'", "flow")), ("--latent 0", ("--latent 0",))])
def test_what_cannot_be_listed_is_refused(
    words: str, parts: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["list", *words.split()]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert all(part in said for part in parts)
