"""A flow of the user's own: its name in Python, YAML and on the command line."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from flowvae import MAF, Experiment, FlowDecoder, FlowGuide, FlowvaeError, Inverse, Training, cli, load
from flowvae.networks import MLP

MODULE = """
from dataclasses import dataclass

from flowvae import MAF


@dataclass(frozen=True)
class ShiftFirst(MAF, name="shift-first"):
    title = "MAF under another name"
    paper = "own"
"""
SMALL = Experiment(
    latent=2,
    encoder=MLP((8,)),
    decoder=MLP((8,)),
    inference=Training(epochs=1, device="cpu"),
)


def own() -> type[MAF]:
    @dataclass(frozen=True)
    class Mine(MAF, name="mine"):
        scale: float = 1.0

    return Mine


def test_an_own_flow_is_a_prior_and_a_guide_by_name(tmp_path: Path) -> None:
    mine = own()
    experiment = replace(SMALL, prior=mine(1, scale=2.0), guide=FlowGuide(Inverse(mine(1)), context=4))
    run = experiment.run(tmp_path / "run", draws=2, figures=False, progress=False)
    text = (tmp_path / "run" / "experiment.yaml").read_text()
    assert "family: mine\n" in text
    assert "family: inverse-mine\n" in text
    assert "scale: 2.0\n" in text
    again = load(tmp_path / "run")
    assert again.experiment == experiment
    z = torch.randn(5, 2)
    with torch.no_grad():
        assert torch.equal(again.pair.model.prior().log_prob(z), run.pair.model.prior().log_prob(z))


def test_an_own_flow_is_in_a_decoder() -> None:
    experiment = replace(SMALL, decoder=FlowDecoder(Inverse(own()(1, scale=3.0))))
    plain = experiment.to_dict()
    assert plain["decoder"]["flow"]["family"] == "inverse-mine"
    assert Experiment.from_dict(plain) == experiment


def test_without_a_name_it_is_stored_nowhere_and_trains_in_memory(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Nameless(MAF):
        pass

    experiment = replace(SMALL, prior=Nameless(1))
    with pytest.raises(FlowvaeError, match="Nameless"):
        experiment.run(tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
    run = experiment.run(progress=False)
    assert run.pair.model.prior().event_shape == (2,)
    assert len(run.history) == 1


def test_the_command_line_imports_the_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "shifts.py").write_text(MODULE)
    line = "--out run --latent 2 prior:shift-first --prior.transforms 1 guide:inverse-shift-first --draws 2"
    words = [*line.split(), "--inference.epochs", "1"]
    assert cli.main(["train", *words]) == 2
    assert "--import MODULE" in capsys.readouterr().err
    assert cli.main(["train", "--import", "shift", *words]) == 2
    assert "--import shift:" in capsys.readouterr().err
    assert cli.main(["train", "--import", "shifts", *words]) == 0
    monkeypatch.delitem(sys.modules, "shifts")
    assert "family: shift-first" in (tmp_path / "run" / "experiment.yaml").read_text()
    assert cli.main(["list"]) == 0
    assert "MAF under another name" in capsys.readouterr().out
