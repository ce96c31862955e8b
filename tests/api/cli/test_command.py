"""The command line: what a user types, and what is said back."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flowvae import IAF, MAF, NSF, Condition, Conv, Experiment, FlowGuide, Inverse, load
from flowvae.cli.command import COMMANDS, main
from flowvae.comparisons import PRESETS, QUESTIONS
from flowvae.evaluation import MEASURES

QUICK = ["--inference.epochs", "2", "--draws", "5", "--inference.device", "cpu"]


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take longer than such trainings."""
    monkeypatch.setattr("flowvae.experiments.train.draw_figures", lambda *_, **__: [])


def run(*words: str) -> int:
    return main([*words])


def test_the_line_of_the_readme(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "run")
    words = ["--latent", "3", "prior:maf", "--prior.transforms", "5", "guide:iaf", *QUICK]
    assert run("train", "--out", out, *words) == 0
    experiment = Experiment.from_yaml(Path(out) / "experiment.yaml")
    assert experiment.prior == MAF(transforms=5)
    assert experiment.guide == FlowGuide(IAF())
    assert experiment.latent == 3
    printed = capsys.readouterr().out
    assert "nll:" in printed
    assert "nats per datum (test)" in printed


@pytest.mark.usefixtures("no_figures")
def test_a_users_own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("mine.npz", train=np.random.default_rng(0).integers(0, 2, (100, 6)))
    line = (
        "train --out runs/mine --latent 16 --inference.epochs 5 "
        "data:arrays --data.path mine.npz --data.likelihood bernoulli prior:nsf guide:iaf"
    )
    assert run(*line.split(), "--draws", "5") == 0
    experiment = Experiment.from_yaml("runs/mine/experiment.yaml")
    assert experiment.prior == NSF()
    assert str(experiment.data.likelihood) == "bernoulli"  # type: ignore[attr-defined]
    assert experiment.inference.epochs == 5


@pytest.mark.usefixtures("no_figures")
def test_a_config_is_a_base_for_changes(tmp_path: Path) -> None:
    base = tmp_path / "base.yaml"
    Experiment(latent=3, prior=MAF(transforms=2), guide=FlowGuide(Inverse(NSF(bins=3)))).to_yaml(base)
    out = tmp_path / "run"
    assert run("train", "--config", str(base), "--out", str(out), "--prior.transforms", "1", *QUICK) == 0
    experiment = Experiment.from_yaml(out / "experiment.yaml")
    assert experiment.prior == MAF(transforms=1)
    assert experiment.guide == FlowGuide(Inverse(NSF(bins=3)))
    assert experiment.latent == 3


@pytest.mark.usefixtures("no_figures")
def test_networks_and_a_condition_by_name(tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    line = "encoder:conv --encoder.channels 4 decoder:conv --decoder.channels 4 --latent 1 3 3 --condition.no-prior"
    assert run("train", "--out", out, *line.split(), *QUICK) == 0
    experiment = load(out).experiment
    assert experiment.encoder == experiment.decoder == Conv(channels=(4,))
    assert experiment.latent == (1, 3, 3)
    assert experiment.condition == Condition(prior=False)


@pytest.mark.usefixtures("no_figures")
def test_evaluate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "run")
    run("train", "--out", out, "--latent", "2", *QUICK)
    capsys.readouterr()
    assert run("evaluate", out, "--split", "valid", "--draws", "7") == 0
    assert "nats per datum (valid)" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert {m["protocol"]["draws"] for m in metrics if m["split"] == "valid"} == {7}


@pytest.mark.usefixtures("no_figures")
def test_resume_on_the_command_line(tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    run("train", "--out", out, "--latent", "2", "prior:maf", *QUICK)
    assert run("train", "--out", out, "--resume") == 0
    assert run("train", "--out", out, "--resume", "--inference.epochs", "3") == 0  # extended
    assert len(load(out).history) == 3
    assert run("train", "--out", out, "--resume", "--inference.epochs", "1") == 2
    assert run("train", "--out", out, "--latent", "2", "prior:maf", *QUICK) == 2
    assert run("train", "--out", out, "--latent", "2", "prior:maf", "--overwrite", *QUICK) == 0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train --out r prior:mfa", "did you mean maf"),
        ("train --out r guide:gausian", "did you mean gaussian"),
        ("train --out r prior=maf", "did you mean prior:maf?"),
        ("train --out r latent=3", "did you mean --latent 3?"),
        ("train --out r prior:planar", "planar: this family cannot be a prior"),
        ("train --out r guide:naf", "naf: this family cannot be a guide"),
        ("train --out r prior:maf --prior.bins 3", "setting of nsf"),
        ("train --out r condition:labels", "condition.prior"),
        ("train --out r --latent 4 7 0", "(4, 7, 0)"),
        ("train --out r --latent 1 prior:maf", "latent = 1"),
        ("train --out r --latent 0", "latent = 0"),
        ("train --out r --config none.yaml", "none.yaml: no such file"),
        ("train --out r --resume", "experiment.yaml: no such file"),
        ("train --out r data:arrays --data.path none.npz --data.likelihood bernoulli", "no such file"),
        ("train --out r --draws 0", "draws = 0"),
        ("evaluate nowhere", "no such file"),
        ("trian", "did you mean train"),
    ],
)
def test_mistakes_are_told_in_one_line(
    line: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*line.split()) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert not Path("r").exists()


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("train --out r --latent eight", ("--latent", "'eight'", "whole number")),
        ("train --out r --latent [bold]3", ("--latent", "'[bold]3'")),
        ("train --out r --latent=3.5", ("--latent", "'3.5'")),
        ("train --out r --data.resize big data:fashion-mnist", ("--data.resize", "'big'", "none", "two whole numbers")),
        ("train --out r --inference.clip x", ("--inference.clip", "'x'", "none or a number")),
        ("train --out r --encoder.hidden-features 3 b", ("--encoder.hidden-features", "'3 b'", "whole numbers")),
        ("train --out r --nonsense 3", ("'--nonsense'", "train --help")),
        ("train --out r --latnt 3", ("'--latnt'", "--latent")),
        ("train --out r --seed", ("--seed", "value")),
        ("train --out r extra", ("'extra'",)),
        ("train", ("--out PATH", "directory of the run")),
        ("evaluate", ("PATH", "directory of the run")),
        ("train --out r data:arrays", ("--data.path",)),
        ("train --out r data:arrays --data.path x.npz", ("'x.npz'", "no such file")),
        ("train --out r data:mapped --data.path x.npy", ("'x.npy'", "no such file")),
        ("train --out r data:arrays --data.path here.npz", ("likelihood", "values")),
        ("train --out r data:arrays --data.path x.npz --data.likelihood bernouli", ("'bernouli'", "mean bernoulli?")),
        ("train --out r data:images --data.path x --data.likelihood bernouli", ("'bernouli'", "mean bernoulli?")),
        ("train --out r --inference.kl-warmup 500", ("kl_warmup = 500", "epochs")),
        ("train --out r --seed -1", ("seed = -1",)),
        ("fit-prior", ("PATH",)),
    ],
)
def test_what_the_parser_refuses_is_told_in_one_line(
    line: str,
    parts: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("here.npz", train=np.zeros((10, 2)))
    monkeypatch.setenv("COLUMNS", "60")
    assert run(*line.split()) == 2
    assert os.environ["COLUMNS"] == "60"
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert all(part in said for part in parts), said
    assert not any(mark in said for mark in ("<class", "[/", "│", "Error parsing"))
    assert not Path("r").exists()


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    assert "evaluate" in capsys.readouterr().out
    assert run("--version") == 0
    for words in (["train", "--help"], ["train", "prior:maf", "--help"], ["sample", "-h"]):
        with pytest.raises(SystemExit) as info:
            main(words)
        assert info.value.code == 0
    assert "layer" in capsys.readouterr().out


def test_help_names_every_measure_and_question(capsys: pytest.CaptureFixture[str]) -> None:
    for command, known in (("evaluate", MEASURES), ("compare", QUESTIONS)):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        said = capsys.readouterr().out
        assert all(f"{name}: " in said for name in known)


def test_numbers_stand_in_for_those_of_a_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def note(question: object, data: str, preset: object, *_: object, **__: object) -> None:
        asked.append(preset)
        raise KeyboardInterrupt

    monkeypatch.setattr("flowvae.cli.comparing.answer", note)
    run("compare", "holes", "--preset", "hour")
    run("compare", "holes", "--preset", "hour", "--seeds", "3", "--draws", "7")
    run("compare", "holes", "--preset", "cluster", "--epochs", "9")
    assert asked == ["hour", replace(PRESETS["hour"], seeds=3, draws=7), replace(PRESETS["cluster"], epochs=9)]
    assert run("compare", "holes", "--seeds", "1") == 2


@pytest.mark.usefixtures("no_figures")
def test_what_is_said_after_an_interruption_leads_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    out, second = str(tmp_path / "run"), str(tmp_path / "second")
    train = ["train", "--out", out, "--latent", "2", *QUICK]
    fit = ["fit-prior", out, "--out", second, *QUICK]
    for words, going_on in ((train, [*train, "--resume"]), (fit, ["train", "--resume", "--out", second, *QUICK[2:]])):
        with monkeypatch.context() as patch:
            patch.setattr("flowvae.experiments.run.Run.evaluate", interrupt)
            assert run(*words) == 130
        assert "--resume" in capsys.readouterr().err
        assert run(*going_on) == 0
    monkeypatch.setattr("flowvae.experiments.run.Run.evaluate", interrupt)
    assert run("evaluate", out) == 130
    assert "metrics.json" in capsys.readouterr().err
    monkeypatch.setattr("flowvae.cli.comparing.answer", interrupt)
    assert run("compare", "capacity", "--out", out) == 130
    assert "same command" in capsys.readouterr().err
    monkeypatch.setattr("flowvae.cli.listing.table", interrupt)
    assert run("list") == 130
    assert capsys.readouterr().err == "flowvae: interrupted.\n"


def test_a_reader_that_has_enough_ends_the_list(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reader, writer = os.pipe()
    os.close(reader)  # as head does
    with os.fdopen(writer, "w") as stream:
        monkeypatch.setattr("sys.stdout", stream)
        assert run("list", "--json") == 141
    monkeypatch.undo()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("module", ["difflib", "pyro"])  # before the main function is there, and in it
def test_an_interruption_of_the_imports_is_told_in_one_line(module: str, tmp_path: Path) -> None:
    (tmp_path / f"{module}.py").write_text("raise KeyboardInterrupt")
    package = Path(sys.modules["flowvae"].__path__[0]).parent
    code = "import sys; sys.argv = ['bin/flowvae', 'list']; from flowvae.cli.command import main; sys.exit(main())"
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{package}"},
        capture_output=True,
        text=True,
    )
    assert (found.returncode, found.stderr) == (130, "flowvae: interrupted.\n")


def test_the_commands_first_lines_are_those_of_their_descriptions() -> None:
    """They stand in a table, so that the list of commands needs no imports."""
    for name, (module, summary) in COMMANDS.items():
        room = importlib.import_module(f"flowvae.cli.{module}")
        described = getattr(room, name.title().replace("-", ""))
        assert described.__doc__.splitlines()[0] == summary
        assert callable(getattr(room, f"{name.replace('-', '_')}_command"))
