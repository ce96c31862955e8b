"""A flow of the user's own: its name in Python, YAML and on the command line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from flowvae import MAF, Experiment, FlowGuide, FlowvaeError, Inverse, Training, cli, load, register_flow
from flowvae.experiments.families import ANY_FLOW, FLOWS, GUIDES, PRIORS, check_family, name_of
from flowvae.flows import Cost, FlowSpec
from flowvae.networks import MLP

MODULE = """
from dataclasses import dataclass

from flowvae import MAF, register_flow


@register_flow("shift-first")
@dataclass(frozen=True)
class ShiftFirst(MAF):
    title = "MAF under another name"
    paper = "own"
"""
SMALL = Experiment(
    latent=2,
    encoder=MLP((8,)),
    decoder=MLP((8,)),
    inference=Training(epochs=1, device="cpu"),
)


@pytest.fixture(autouse=True)
def tables_left_as_they_were() -> Iterator[None]:
    tables = (FLOWS, PRIORS, GUIDES, ANY_FLOW)
    before = [dict(table) for table in tables]
    yield
    for table, content in zip(tables, before, strict=True):
        table.clear()
        table.update(content)


def own(name: str = "mine") -> type[MAF]:
    @register_flow(name)
    @dataclass(frozen=True)
    class Mine(MAF):
        scale: float = 1.0

    return Mine


def test_an_own_flow_is_a_prior_and_a_guide_by_name(tmp_path: Path) -> None:
    mine = own()
    experiment = replace(SMALL, prior=mine(1, scale=2.0), guide=FlowGuide(Inverse(mine(1)), context=4))
    assert (name_of(experiment.prior), name_of(experiment.guide)) == ("mine", "inverse-mine")
    run = experiment.run(tmp_path / "run", draws=2, figures=False, progress=False)
    text = (run.directory / "experiment.yaml").read_text()
    assert "family: mine\n" in text
    assert "scale: 2.0\n" in text
    again = load(run.directory)
    assert again.experiment == experiment
    z = torch.randn(5, 2)
    with torch.no_grad():
        assert torch.equal(again.pair.model.prior().log_prob(z), run.pair.model.prior().log_prob(z))


def test_a_class_that_is_defined_again_replaces_the_first() -> None:
    first = own()
    second = own()
    assert name_of(second()) == "mine"
    with pytest.raises(FlowvaeError, match="defined anew"):
        name_of(first())


def test_roles_of_an_own_flow_are_kept() -> None:
    @register_flow("prior-only")
    @dataclass(frozen=True)
    class PriorOnly(MAF):
        roles = ("prior",)
        why_not = "it was made for priors"

    assert "prior-only" not in GUIDES
    with pytest.raises(FlowvaeError, match="guide prior-only: this family cannot be a posterior: it was made for"):
        check_family("guide", "prior-only")


def test_without_a_name_it_trains_nothing_and_leaves_no_directory(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Nameless(MAF):
        pass

    experiment = replace(SMALL, prior=Nameless(1))
    experiment.build(experiment.data.load(0))  # the Pyro pair needs no name
    with pytest.raises(FlowvaeError, match="register_flow"):
        experiment.run(tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["maf", "normal", "gaussian", "inverse-maf"])
def test_names_that_are_taken_are_refused(name: str) -> None:
    with pytest.raises(FlowvaeError, match=r"another family|inverse-"):
        own(name)


@pytest.mark.parametrize("name", ["Mine", "my flow", "prior:x", ""])
def test_names_that_no_command_line_can_say_are_refused(name: str) -> None:
    with pytest.raises(FlowvaeError, match="lower-case letters"):
        own(name)


def test_classes_that_are_no_whole_flow_are_refused() -> None:
    class Bare(FlowSpec):
        def transform(self, features: int, context: int = 0) -> torch.nn.Module:  # type: ignore[override]
            return MAF().transform(features, context)

        def cost(self, features: int) -> Cost:
            return Cost(1, 1, 1)

    class NoCost(FlowSpec):
        title = paper = "own"

        def transform(self, features: int, context: int = 0) -> torch.nn.Module:  # type: ignore[override]
            return MAF().transform(features, context)

    class Undecorated(MAF):
        scale: float = 1.0

    for wrong, message in (
        (dict, "is not a flow"),
        (Undecorated, r"@dataclass\(frozen=True\) between"),
        (dataclass(frozen=True)(Bare), "has no title"),
        (dataclass(frozen=True)(NoCost), "has no cost"),
    ):
        with pytest.raises(FlowvaeError, match=message):
            register_flow("mine")(wrong)  # type: ignore[type-var]

    @dataclass(frozen=True, kw_only=True)
    class Needy(MAF):
        size: int

    with pytest.raises(FlowvaeError, match="'size' a default"):
        register_flow("mine")(Needy)

    @dataclass(frozen=True)
    class Contextual(MAF):
        conditioned: int = 3

    with pytest.raises(FlowvaeError, match="'conditioned' is also one of FlowGuide"):
        register_flow("mine")(Contextual)
    assert "mine" not in FLOWS


def test_the_command_line_imports_the_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "shifts.py").write_text(MODULE)
    line = "--out run --latent 2 prior:shift-first --prior.transforms 1 guide:inverse-shift-first --draws 2"
    words = [*line.split(), "--inference.epochs", "1"]
    assert cli.main(["train", *words]) == 2
    assert "import its module first (--import MODULE)" in capsys.readouterr().err
    assert cli.main(["train", "--import", "shift", *words]) == 2
    assert "--import shift: no such module" in capsys.readouterr().err
    assert cli.main(["train", "--import", "shifts", *words]) == 0
    monkeypatch.delitem(sys.modules, "shifts")
    assert "family: shift-first" in (tmp_path / "run" / "experiment.yaml").read_text()
    assert cli.main(["list"]) == 0
    assert "MAF under another name" in capsys.readouterr().out
