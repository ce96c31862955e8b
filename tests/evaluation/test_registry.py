"""Every measure runs by its name, says unit and protocol, and is kept as soon as it is taken."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from flowvae import IAF, MAF, Experiment, FlowGuide, FlowvaeError, Mixture, Training, load
from flowvae.cli.command import main
from flowvae.evaluation import MEASURES, AnnealedHMC, Effort, context
from flowvae.experiments.run import Run
from flowvae.networks import MLP

SMALL = Effort(rows=3, refinement=20, tempering=AnnealedHMC(chains=2, temperatures=3, leapfrog=2))


@pytest.fixture(autouse=True)
def _small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWVAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(context, "MANY", 300)


def train(directory: Path, **parts: object) -> Run:
    small = {"encoder": MLP((8,)), "decoder": MLP((8,)), "inference": Training(epochs=1, device="cpu")}
    experiment = Experiment(latent=2, **small, **parts)  # type: ignore[arg-type]
    return experiment.run(directory, draws=30, figures=False, progress=False)


@pytest.mark.parametrize(
    "parts",
    [{"prior": MAF(1, (8,)), "guide": FlowGuide(IAF(1, (8,)))}, {"prior": Mixture(2)}],
    ids=["flows", "mixture"],
)
def test_every_measure_of_a_run(tmp_path: Path, parts: dict[str, object]) -> None:
    run = train(tmp_path / "run", **parts)
    assert set(run.measured) == {"likelihood"}
    new = run.evaluate(measures=list(MEASURES), draws=30, effort=SMALL, figures=True, progress=False)
    assert set(run.measured) == set(MEASURES)
    assert len({(metric.name, metric.split) for metric in new}) == len(new)
    for metric in new:
        assert math.isfinite(metric.value), metric
        assert metric.se is None or metric.se >= 0
        assert metric.unit
        assert metric.split in ("train", "test", "simulated")
        assert metric.protocol["seed"] == 0
        assert metric.protocol["data"]["name"] == "digits"
    assert sorted(map(str, load(run.directory).metrics)) == sorted(map(str, new))
    drawn = {file.stem for file in (run.directory / "figures").iterdir()}
    assert drawn == {
        "khat",
        "bounds",
        "gaps",
        "holes",
        "activity",
        "calibration",
        "memorization",
        "fid",
    }


def test_the_parts_of_the_gap_add_up(tmp_path: Path) -> None:
    run = train(tmp_path / "run")
    value = {metric.name: metric.value for metric in run.evaluate(measures=["gaps"], effort=SMALL, progress=False)}
    assert value["approximation_gap"] + value["amortization_gap"] == pytest.approx(value["inference_gap"], abs=1e-5)
    assert -value["nll_ais"] - value["refined_elbo"] == pytest.approx(value["approximation_gap"], abs=1e-4)


def test_a_measure_is_kept_although_the_next_one_breaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = train(tmp_path / "run")

    def broken(context: object) -> object:
        raise KeyboardInterrupt

    monkeypatch.setitem(MEASURES, "mmd", broken)
    with pytest.raises(KeyboardInterrupt):
        run.evaluate(measures=["activity", "mmd"], progress=False)
    assert set(run.measured) == {"likelihood", "activity"}


def test_measures_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = train(tmp_path / "run")
    assert main(["evaluate", str(run.directory), "--measures", "surgery", "mmd", "--split", "valid"]) == 0
    said = capsys.readouterr().out
    assert "mutual_information: " in said
    assert "mmd2_1: " in said
    stored = json.loads((run.directory / "metrics.json").read_text())
    assert {m["protocol"]["measure"] for m in stored} == {"likelihood", "surgery", "mmd"}
    assert main(["evaluate", str(run.directory), "--measures", "surgry"]) == 2
    assert "did you mean surgery" in capsys.readouterr().err
    with pytest.raises(FlowvaeError, match="did you mean holes"):
        run.evaluate(measures=["hole"])
    assert main(["evaluate", str(run.directory), "--measures", "all", "--split", "train"]) == 2
    said = capsys.readouterr().err
    assert all(name in said for name in ("prior-overfitting", "holes", "generation", "memorization"))
    assert json.loads((run.directory / "metrics.json").read_text()) == stored
