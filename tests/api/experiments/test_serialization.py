"""Specs as plain values: whatever is in a table is named, written and read back."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import ClassVar

import pytest
from zuko.lazy import LazyDistribution

from flowvae import MAF, Experiment, FlowDecoder, FlowvaeError, Gaussian, Inverse, RealNVP, StandardNormal
from flowvae.cli.commands import Train, parse
from flowvae.cli.family_table import format_rows, table
from flowvae.cli.words import arrange
from flowvae.experiments.families import ANY_FLOW, GUIDES, PRIORS, name_of
from flowvae.experiments.serialization import from_plain, to_plain
from flowvae.flows import Cost
from flowvae.flows.spec import standard_normal
from flowvae.guides import GuideSpec
from flowvae.networks import MLP


@dataclass(frozen=True)
class Wide(GuideSpec):
    """As CONTRIBUTING.md says it: a frozen dataclass below GuideSpec."""

    title: ClassVar[str] = "wide"
    paper: ClassVar[str] = "own 2026"

    width: float = 2.0

    def build(self, features: int, context: int) -> LazyDistribution:
        return Gaussian().build(features, context)

    def cost(self, features: int) -> Cost:
        return Cost(0, 0, 0)


@dataclass(frozen=True)
class Still:
    """A prior that is no flow."""

    title: ClassVar[str] = "still"
    paper: ClassVar[str] = "own 2026"
    roles: ClassVar[tuple[str, ...]] = ("prior",)
    proper: ClassVar[bool] = True

    depth: int = 1

    def build(self, features: int, context: int = 0) -> LazyDistribution:
        return standard_normal(features)

    def cost(self, features: int) -> Cost:
        return Cost(0, 0, 0)


def test_what_is_only_in_a_table_is_named_written_and_read_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = Experiment(latent=2, prior=Still(depth=3), guide=Wide(width=5.0))
    for part in (experiment.prior, experiment.guide):
        with pytest.raises(FlowvaeError, match="has no name"):
            to_plain(part)
    monkeypatch.setitem(GUIDES, "wide", (Wide, Wide()))
    monkeypatch.setitem(PRIORS, "still", (Still, Still()))
    assert (name_of(experiment.guide), name_of(experiment.prior)) == ("wide", "still")
    assert to_plain(experiment.guide) == {"family": "wide", "width": 5.0}
    experiment.to_yaml(tmp_path / "e.yaml")
    assert Experiment.from_yaml(tmp_path / "e.yaml") == experiment
    assert {"wide", "still"} <= {row.name for row in table(latent=2)}
    base = Experiment()
    own = {f.name: getattr(base, f.name) for f in fields(Experiment) if f.name != "second_stage"}
    words = arrange(["--guide.width", "5", "guide:wide", "prior:still"], base)
    parsed = parse(Train, words, "train", Train(out=tmp_path, **own))
    assert (parsed.guide, parsed.prior) == (Wide(width=5.0), Still())


def test_a_decoder_with_a_flow_is_read_back() -> None:
    decoder = FlowDecoder(Inverse(MAF(1, (8,))), MLP((6,)))
    assert from_plain("decoder", to_plain(decoder)) == decoder
    assert from_plain("decoder", {"flow": "realnvp"}) == FlowDecoder(RealNVP())
    assert from_plain("decoder", to_plain(MLP((6,)))) == MLP((6,))
    with pytest.raises(FlowvaeError, match=r"decoder\.mlp: 3; must be settings by name"):
        from_plain("decoder", {"flow": "realnvp", "mlp": 3})
    with pytest.raises(FlowvaeError, match="decoder: no setting 'base'"):
        from_plain("decoder", {"flow": "realnvp", "base": 3})


def test_the_list_says_which_flows_may_be_turned_round() -> None:
    rows = table(latent=4)
    (line,) = [line for line in format_rows(rows).splitlines() if line.startswith("inverse-NAME")]
    said = set(line.rstrip(".").partition(": ")[2].split(", "))
    for row in rows:
        if row.name in said:
            turned = from_plain("flow", f"inverse-{row.name}")
            assert turned == Inverse(from_plain("flow", row.name))
            assert turned.cost(4).sample == row.density
        else:
            with pytest.raises(FlowvaeError, match="unknown family"):
                from_plain("flow", f"inverse-{row.name}")
    assert {"maf", "planar"} <= said <= set(ANY_FLOW)
    assert {row.name for row in rows} == {*PRIORS, *GUIDES} - {f"inverse-{name}" for name in said}


def test_an_experiment_is_not_its_prior() -> None:
    with pytest.raises(FlowvaeError, match="encoder: 'wide'; must be settings by name"):
        Experiment.from_dict({"encoder": "wide"})
    assert Experiment.from_dict({"prior": "normal"}) == replace(Experiment(), prior=StandardNormal())
