"""A run is opened where its data and its device are others, and only where they are what they were."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import Size, nn

from flowvae import Arrays, Experiment, FlowvaeError, Mixture, Training, load
from flowvae.cli.command import main
from flowvae.core.errors import DamagedError, OtherDeviceWarning, UnfinishedRunWarning
from flowvae.core.parts import NetworkSpec
from flowvae.evaluation import FIGURES, plot_samples
from flowvae.experiments.run import MeasurementError, Run
from flowvae.experiments.stages import SecondStage
from flowvae.inference import choose_device
from flowvae.models import BernoulliLikelihood, GaussianLikelihood
from flowvae.networks import MLP

QUICK = Training(epochs=1, device="cpu")
HOW = {"draws": 5, "figures": False, "progress": False}
X = np.random.default_rng(0).integers(0, 2, (60, 3, 3))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    np.savez(folder / "mine.npz", train=X)
    experiment = Experiment(
        latent=2,
        encoder=MLP((8,)),
        decoder=MLP((8,)),
        inference=QUICK,
        data=Arrays(folder / "mine.npz", BernoulliLikelihood()),
        second_stage=SecondStage(Mixture(2), QUICK),
    )
    experiment.run(folder / "run", **HOW)  # type: ignore[arg-type]
    return folder


@pytest.fixture
def place(trained: Path, tmp_path: Path) -> Path:
    """A folder with a copy of the run, whose data are where they were."""
    shutil.copytree(trained / "run", tmp_path / "run")
    return tmp_path


def edit(run: Path, **changes: object) -> Experiment:
    """Change settings in experiment.yaml, as a user does with an editor."""
    experiment = replace(Experiment.from_yaml(run / "experiment.yaml"), **changes)  # type: ignore[arg-type]
    experiment.to_yaml(run / "experiment.yaml")
    return experiment


def unfinished(run: Path) -> None:
    for name in ("history.csv", "metrics.json"):
        (run / name).unlink()


def same_weights(one: Run, other: Run) -> bool:
    pairs = zip(one.pair, other.pair, strict=True)
    return all(
        torch.equal(value.cpu(), b.state_dict()[name].cpu()) for a, b in pairs for name, value in a.state_dict().items()
    )


def test_the_place_of_the_data_may_be_corrected(trained: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = place / "run"
    edit(run, data=Arrays(place / "gone.npz", BernoulliLikelihood()))
    opened = load(run)  # without its data
    for needs_data in (lambda: opened.data, lambda: opened.evaluate(draws=5, progress=False)):
        with pytest.raises(FlowvaeError, match=r"gone\.npz.*data\.path in .*experiment\.yaml"):
            needs_data()
    with pytest.raises(FlowvaeError, match=r"gone\.npz.*data\.path in .*experiment\.yaml"):
        opened.experiment.run(run, resume=True, **HOW)  # type: ignore[arg-type]
    np.savez(place / "renamed.npz", train=X)
    monkeypatch.chdir(place)
    experiment = edit(run, data=Arrays(Path("renamed.npz"), BernoulliLikelihood()))
    opened = load(run)
    assert opened.experiment == experiment
    assert same_weights(opened, load(trained / "run"))
    before = opened.metric("nll").value
    opened.evaluate(draws=5, progress=False)
    assert opened.metric("nll").value == before
    np.savez(place / "renamed.npz", train=1 - X)
    opened = load(run)
    for needs_data in (lambda: opened.data, lambda: opened.evaluate(draws=5, progress=False)):
        with pytest.raises(FlowvaeError, match=rf"{run}.*renamed\.npz"):
            needs_data()
    assert opened.metric("nll").value == before  # which stay
    unfinished(run)
    with pytest.raises(FlowvaeError, match=f"{run}"):
        experiment.run(run, resume=True, **HOW)  # type: ignore[arg-type]


def test_a_run_goes_on_where_its_data_have_moved(trained: Path, place: Path) -> None:
    run = place / "run"
    unfinished(run)
    np.savez(place / "mine.npz", train=X)
    data = Arrays(place / "mine.npz", BernoulliLikelihood())
    edit(run / "first-stage", data=data)
    resumed = edit(run, data=data).run(run, resume=True, **HOW)  # type: ignore[arg-type]
    assert resumed.metric("nll").value == load(trained / "run").metric("nll").value


def test_a_run_of_a_device_that_is_not_here_is_opened_on_another_one(trained: Path, place: Path) -> None:
    far = replace(QUICK, device="cuda:99")
    experiment = edit(place / "run", inference=far, second_stage=SecondStage(Mixture(2), far))
    with pytest.warns(OtherDeviceWarning, match="cuda:99.* not available here.*opened on"):
        opened = load(place / "run")
    assert opened.experiment == experiment
    assert next(opened.pair.model.parameters()).device.type == choose_device("auto").type
    assert same_weights(opened, load(trained / "run"))


@pytest.mark.parametrize("device", ["mps", "cuda:99"])
def test_a_device_that_is_not_here_is_named_briefly(device: str) -> None:
    if device == "mps" and torch.backends.mps.is_available():
        pytest.skip("this machine has it")
    with pytest.raises(FlowvaeError, match=f"device = '{device}': not available here .*use auto or cpu") as caught:
        choose_device(device)
    assert len(str(caught.value)) < 220


@pytest.mark.parametrize("change", [{"seed": 1}, {"inference": replace(QUICK, epochs=2)}], ids=str)
def test_nothing_else_may_be_changed(place: Path, change: dict[str, object]) -> None:
    edit(place / "run", **change)
    with pytest.raises(DamagedError, match=f"does not match its checkpoint in {next(iter(change))};"):
        load(place / "run")


def edited(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def cut(file: Path) -> None:
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))


DAMAGE = {
    "a digit of a measure": lambda run: edited(run / "metrics.json", '"value": -', '"value": -1'),
    "a unit": lambda run: edited(run / "metrics.json", "nats per datum", "bits per datum"),
    "no measures": lambda run: (run / "metrics.json").write_text("[]"),
    "one measure less": lambda run: (run / "metrics.json").write_text(
        json.dumps(json.loads((run / "metrics.json").read_text())[:-1])
    ),
    "no list of measures": lambda run: (run / "metrics.json").write_text('{"nll": 3}'),
    "measures in binary": lambda run: (run / "metrics.json").write_bytes(b"\xff\xfe\x00"),
    "measures of another run": lambda run: shutil.copy(run / "first-stage" / "metrics.json", run),
    "a digit of the history": lambda run: edited(run / "history.csv", ",-", ",-1"),
    "a history in binary": lambda run: (run / "history.csv").write_bytes(b"\xff\xfe\x00"),
    "an empty history": lambda run: (run / "history.csv").write_text(""),
    "no last row": lambda run: cut(run / "history.csv"),
    "the history of another run": lambda run: shutil.copy(run / "first-stage" / "history.csv", run),
    "no checkpoint": lambda run: (run / "checkpoint.safetensors").unlink(),
    "the checkpoint of another run": lambda run: shutil.copy(run / "first-stage" / "checkpoint.safetensors", run),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_every_file_of_a_run_is_checked(place: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = place / "run"
    DAMAGE[kind](run)  # type: ignore[no-untyped-call]
    with pytest.raises(DamagedError, match=str(run)):
        load(run)
    assert main(["evaluate", str(run)]) == 2
    assert str(run) in capsys.readouterr().err


def test_what_is_said_about_damage_helps(trained: Path, place: Path) -> None:
    run, before = place / "run", load(trained / "run")
    DAMAGE["a digit of a measure"](run)
    with pytest.raises(DamagedError, match="delete it and evaluate"):
        load(run)
    (run / "metrics.json").unlink()
    load(run).evaluate(draws=5, progress=False)
    assert load(run).metrics == before.metrics
    DAMAGE["a digit of the history"](run)
    with pytest.raises(DamagedError, match="--resume"):
        load(run)
    before.experiment.run(run, resume=True, **HOW)  # type: ignore[arg-type]
    assert load(run).history.equals(before.history)
    assert load(run).metrics == before.metrics


def test_the_history_of_all_stages_is_checked(place: Path) -> None:
    cut(place / "run" / "first-stage" / "history.csv")
    with pytest.raises(DamagedError, match="first-stage"):
        load(place / "run").whole_history  # noqa: B018
    shutil.rmtree(place / "run" / "first-stage")
    with pytest.raises(DamagedError, match="first-stage"):
        load(place / "run").whole_history  # noqa: B018


def test_what_was_not_measured_is_said(place: Path) -> None:
    assert load(place / "run").metric("nll").split == "test"
    with pytest.raises(FlowvaeError, match="nothing has been measured on valid"):
        load(place / "run").metric("nll", "valid")
    unfinished(place / "run")
    with pytest.warns(UnfinishedRunWarning):
        run = load(place / "run")
    assert run.metrics == []
    with pytest.raises(FlowvaeError, match=r"nothing has been measured on test.*--resume"):
        run.metric("nll")


def test_a_measure_that_needs_more_data_stops_no_other(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = load(place / "run")
    with pytest.raises(MeasurementError, match=r"holes \(.* = 9: .*\); classifier \(.*data = 9: ") as info:
        run.evaluate(measures=["holes", "classifier", "activity"], progress=False)
    assert {metric.protocol["measure"] for metric in info.value.taken} == {"activity"}
    assert set(run.measured) == {"likelihood", "activity"}
    assert main(["evaluate", str(place / "run"), "--measures", "holes", "mmd", "--split", "valid"]) == 2
    said = capsys.readouterr()
    assert "mmd2_1: " in said.out
    assert "could not be measured: holes (" in said.err
    assert {m.protocol["measure"] for m in run.metrics if m.split == "valid"} == {"mmd"}


@pytest.mark.parametrize("draws", [True, 0, 2.0, "5"])
def test_draws_that_are_no_number_of_draws_are_refused(place: Path, draws: object) -> None:
    with pytest.raises(FlowvaeError, match=r"draws = .*must be a whole number, 1 or more"):
        load(place / "run").evaluate(draws=draws)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["new/deep/draws.npz", "new/picture.png"])
def test_what_is_drawn_makes_its_folder(place: Path, name: str) -> None:
    assert main(["sample", str(place / "run"), "--out", str(place / name), "--count", "3"]) == 0
    assert (place / name).is_file()


def test_a_figure_is_asked_for_by_its_name(place: Path) -> None:
    """With the seed of the experiment, and what its function takes."""
    run = load(place / "run")
    for name in FIGURES:
        assert run.figure(name).axes
    ax = run.figure("samples", of="draws").axes[1]
    own = plot_samples(run.pair.model, run.data, run.experiment.seed, "draws").axes[1]
    np.testing.assert_array_equal(ax.images[0].get_array(), own.images[0].get_array())
    with pytest.raises(FlowvaeError, match="traversal"):
        run.figure("traversals")
    with pytest.raises(FlowvaeError, match="steps"):
        run.figure("traversal", step=3)


@dataclass(frozen=True)
class Noisy(NetworkSpec, name="noisy"):
    """Batch normalization and dropout."""

    def build(self, inputs: Size, outputs: Size | None = None, context: int = 0) -> nn.Module:
        return nn.Sequential(nn.Linear(inputs.numel(), 8), nn.BatchNorm1d(8), nn.Dropout(0.5))


@pytest.mark.filterwarnings("ignore::flowvae.networks.MixedBatchWarning")
@pytest.mark.parametrize("how", ["in memory", "finished", "loaded", "exported", "resumed"])
def test_a_run_stays_as_it_was_trained_in_a_loop_of_a_user(how: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "real.npz", train=np.random.default_rng(0).normal(size=(60, 4)))
    data = Arrays(tmp_path / "real.npz", GaussianLikelihood("optimal"))
    experiment = Experiment(latent=2, encoder=Noisy(), decoder=MLP((8,)), inference=QUICK, data=data)
    run = experiment.run(None if how == "in memory" else tmp_path / "run", **HOW)  # type: ignore[arg-type]
    if how == "loaded":
        run = load(tmp_path / "run")
    elif how == "exported":
        run = load(run.export(tmp_path / "run.safetensors"))
    elif how == "resumed":
        longer = replace(experiment, inference=replace(QUICK, epochs=2))
        run = longer.run(tmp_path / "run", resume=True, **HOW)  # type: ignore[arg-type]
    assert not any(module.training for part in run.pair for module in part.modules())
    before = {name: value.clone() for part in run.pair for name, value in part.state_dict().items()}
    x = torch.randn(20, 4)
    losses = []
    for _ in range(2):
        pyro.set_rng_seed(0)
        losses.append(Trace_ELBO().loss(*run.pair, x))
        run.pair.model(x)
    assert losses[0] == losses[1]
    assert all(torch.equal(value, before[name]) for part in run.pair for name, value in part.state_dict().items())
    for part in run.pair:
        part.train()
    Trace_ELBO().loss(*run.pair, x)
    after = {name: value for part in run.pair for name, value in part.state_dict().items()}
    assert {name for name, value in after.items() if not torch.equal(value, before[name])} >= {"likelihood.square"}
