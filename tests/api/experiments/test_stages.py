"""A second stage changes the prior alone, by exactly what theory says, and is a run like any other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pyro import poutine

from flowvae import MAF, Experiment, FlowvaeError, Mixture, SemiAmortized, StandardNormal, Training, load
from flowvae.cli.command import main
from flowvae.comparisons.engine.grid import cell_name, run_grid
from flowvae.data import Pinwheel
from flowvae.experiments.run import Run
from flowvae.experiments.stages import SecondStage
from flowvae.experiments.train import fit_prior
from flowvae.inference import IWAE, load_checkpoint
from flowvae.networks import MLP

QUICK = Training(epochs=3, batch_size=128, device="cpu", checkpoint_seconds=0.0)
STAGE = SecondStage(MAF(1, (8,)), replace(QUICK, epochs=4, learning_rate=1e-2))
ONE = Experiment(latent=2, encoder=MLP((8,)), decoder=MLP((8,)), inference=QUICK, data=Pinwheel(600, 100, 100))
TWO = replace(ONE, second_stage=STAGE)
TUNED = replace(ONE, second_stage=replace(STAGE, fine_tune=True))
HOW: dict[str, Any] = {"draws": 10, "figures": False, "progress": False}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return TWO.run(tmp_path_factory.mktemp("two") / "run", **HOW)


def traces(run: Run, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Log-densities in nats of one draw a datum, shape (N,), by site, in float64; the same noise in every run."""
    model, guide = (part.double() for part in load(run.directory).pair)
    torch.manual_seed(3)
    drawn = poutine.trace(guide).get_trace(x)
    scored = poutine.trace(poutine.replay(model, trace=drawn)).get_trace(x)
    drawn.compute_log_prob()
    scored.compute_log_prob()
    found = {"z": drawn.nodes["z"]["value"], "q": drawn.nodes["z"]["log_prob"]}
    found |= {"p": scored.nodes["z"]["log_prob"], "x": scored.nodes["x"]["log_prob"]}
    return {name: value.detach() for name, value in found.items()}


def test_the_bound_gains_what_the_prior_gains_draw_by_draw(two: Run) -> None:
    x = two.data.valid.double()
    before, after = traces(load(two.directory / "first-stage"), x), traces(two, x)
    assert torch.equal(before["z"], after["z"])
    elbo = [found["x"] + found["p"] - found["q"] for found in (before, after)]
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(before["z"]).sum(-1)
    gain = after["p"] - normal
    torch.testing.assert_close(elbo[1] - elbo[0], gain, rtol=0, atol=1e-11)
    assert gain.std() > 1e-3  # and the prior has moved


def test_encoder_and_decoder_stay_bit_for_bit(two: Run) -> None:
    first = load(two.directory / "first-stage")
    assert first.experiment == ONE
    for before, after in zip(first.pair, load(two.directory).pair, strict=True):
        for name, value in before.state_dict().items():
            if not name.startswith("prior."):
                assert torch.equal(value, after.state_dict()[name]), name
    assert all(parameter.requires_grad for part in two.pair for parameter in part.parameters())
    assert two.history["valid_elbo"].iloc[-1] > two.history["valid_elbo"].iloc[0]
    assert len(two.history) == 4
    assert two.objective == "ELBO"
    other = replace(two.experiment.second_stage.inference, objective=IWAE(4))
    assert replace(two, experiment=replace(ONE, inference=other)).objective == "importance-weighted bound"
    assert len(two.whole_history) == 3 + 4


def test_fine_tuning_starts_from_the_second_stage_and_moves_everything(tmp_path: Path, two: Run) -> None:
    gentle = replace(STAGE, inference=replace(QUICK, learning_rate=1e-6), fine_tune=True)
    run = replace(ONE, second_stage=gentle).run(tmp_path / "run", first_stage=two.directory / "first-stage", **HOW)
    fitted = load(run.directory / "prior-fit")
    assert fitted.experiment.second_stage == replace(gentle, fine_tune=False)
    assert load(run.directory / "prior-fit" / "first-stage").experiment == ONE
    for start, end in zip(fitted.pair, run.pair, strict=True):
        moved = [not torch.equal(a, b) for a, b in zip(start.parameters(), end.parameters(), strict=True)]
        assert all(moved)
    # so small a step from there leaves it there: from the initial weights it would be many nats away
    assert run.metric("elbo").value == pytest.approx(fitted.metric("elbo").value, abs=0.1)
    assert len(run.whole_history) == 3 + 3 + 3


def test_with_nothing_to_fit_the_vae_itself_is_trained_on(tmp_path: Path, two: Run) -> None:
    first = two.directory / "first-stage"
    longer = SecondStage(StandardNormal(), replace(QUICK, learning_rate=1e-6), fine_tune=True)
    run = replace(ONE, second_stage=longer).run(tmp_path / "run", first_stage=first, **HOW)
    assert load(run.directory / "first-stage").experiment == ONE
    for start, end in zip(load(first).pair, run.pair, strict=True):
        assert all(not torch.equal(a, b) for a, b in zip(start.parameters(), end.parameters(), strict=True))
    assert run.metric("elbo").value == pytest.approx(load(first).metric("elbo").value, abs=0.1)
    assert len(run.whole_history) == 3 + 3


def test_training_on_with_n0i_leaves_a_trained_flow_prior_behind(tmp_path: Path) -> None:
    experiment = replace(ONE, prior=Mixture(3), second_stage=SecondStage(StandardNormal(), QUICK, fine_tune=True))
    assert list(experiment.stages())[1:] == [replace(ONE, prior=Mixture(3))]
    run = experiment.run(tmp_path / "run", **HOW)
    assert not list(run.pair.model.prior.parameters())


def test_yaml_keeps_a_second_stage_and_old_files_have_none(tmp_path: Path) -> None:
    for experiment in (ONE, TWO, TUNED, replace(ONE, second_stage=SecondStage(Mixture(3)))):
        experiment.to_yaml(tmp_path / "e.yaml")
        assert Experiment.from_yaml(tmp_path / "e.yaml") == experiment
    plain = ONE.to_dict()
    del plain["second_stage"]
    assert Experiment.from_dict(plain) == ONE
    assert len({cell_name(experiment) for experiment in (ONE, TWO, TUNED)}) == 3


@pytest.mark.parametrize("saves", [2, 5])  # in the first stage, in the fit of the prior
def test_a_stage_that_was_killed_goes_on_to_the_same_end(
    saves: int, tmp_path: Path, two: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flowvae.inference import training_state

    save: Callable[..., None] = training_state.save_checkpoint
    left = iter(range(saves, -1, -1))

    def killed(*args: Any) -> None:
        if next(left) == 0:
            raise KeyboardInterrupt
        save(*args)

    with monkeypatch.context() as patch:
        patch.setattr(training_state, "save_checkpoint", killed)
        with pytest.raises(KeyboardInterrupt):
            TWO.run(tmp_path / "run", **HOW)
    resumed = TWO.run(tmp_path / "run", resume=True, **HOW)
    assert resumed.metrics == two.metrics
    one, _ = load_checkpoint(two.directory / "checkpoint.safetensors")
    other, _ = load_checkpoint(tmp_path / "run" / "checkpoint.safetensors")
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_fit_prior_copies_the_run_and_leaves_it_alone(tmp_path: Path, two: Run) -> None:
    source = two.directory / "first-stage"
    before = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in source.rglob("*") if file.is_file()}
    run = fit_prior(source, STAGE, tmp_path / "run", **HOW)
    assert {
        file: (file.read_bytes(), file.stat().st_mtime_ns) for file in source.rglob("*") if file.is_file()
    } == before
    assert run.metrics == two.metrics
    with pytest.raises(FlowvaeError, match="exists"):
        fit_prior(source, STAGE, tmp_path / "run", **HOW)
    with pytest.raises(FlowvaeError, match="has two stages already"):
        fit_prior(two.directory, STAGE, tmp_path / "other", **HOW)
    with pytest.raises(FlowvaeError, match="inside"):
        fit_prior(source, STAGE, source / "inside", **HOW)
    with pytest.raises(FlowvaeError, match=r"first_stage = .*first-stage"):
        replace(TWO, latent=3).run(tmp_path / "other", first_stage=source, **HOW)
    assert not (tmp_path / "other").exists()


def test_fit_prior_on_the_command_line(
    tmp_path: Path, two: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowvae.experiments.train.draw_figures", lambda *_: None)  # they take seconds
    source, out = str(two.directory / "first-stage"), str(tmp_path / "run")
    words = ["--prior.transforms", "1", "--out", out, "--draws", "5", "--inference.epochs", "2"]
    assert main(["fit-prior", source, "prior:maf", *words]) == 0
    assert "nll:" in capsys.readouterr().out
    stage = load(out).experiment.second_stage
    assert stage == SecondStage(MAF(1), replace(QUICK, epochs=2))
    assert main(["train", "--resume", "--out", out, "--draws", "5"]) == 0
    assert load(out).experiment.second_stage == stage
    assert main(["fit-prior", "prior:maf", source, "--out", out]) == 2
    assert "name the run first" in capsys.readouterr().err
    assert main(["fit-prior", source, "prior:normal", "--out", str(tmp_path / "other")]) == 2
    assert "nothing to fit" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SecondStage(StandardNormal()), "nothing to fit"),
        (lambda: SecondStage(SemiAmortized()), "cannot be a prior"),
        (lambda: SecondStage(MAF(), fine_tune="yes"), "fine_tune = 'yes'"),
        (lambda: SecondStage(MAF(), inference=3), r"SecondStage\.inference = 3"),
        (lambda: replace(TWO, guide=SemiAmortized()), "codes follow the prior"),
        (lambda: Experiment(second_stage=MAF()), r"Experiment\.second_stage"),
        (lambda: Experiment.from_dict({"second_stage": {"prior": "mfa"}}), "did you mean maf"),
        (lambda: Experiment.from_dict({"second_stage": {"prior": "maf", "tune": True}}), "no setting 'tune'"),
        (lambda: Experiment.from_dict({"second_stage": {}}), "'prior' must be given"),
        (lambda: Experiment.from_dict({"second_stage": "maf"}), "settings by name"),
    ],
)
def test_mistakes_are_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(FlowvaeError, match=message):
        make()


def test_a_grid_trains_a_shared_first_stage_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two: Run) -> None:
    import flowvae.experiments.train as module

    trained = []
    fit = module.fit

    def counted(*args: Any, **settings: Any) -> Any:
        trained.append(settings["facts"]["experiment"])
        return fit(*args, **settings)

    monkeypatch.setattr(module, "fit", counted)
    arms = {"one": ONE, "two": TWO, "tuned": TUNED}
    table = run_grid(arms, range(1), tmp_path, draws=10, progress=False).table.set_index("arm")
    assert trained == [arm.to_dict() for arm in (ONE, TWO, TUNED)]
    assert list(table["epochs"]) == [3, 7, 11]
    assert table.loc["two", "nll"] == two.metric("nll").value


def test_a_killed_cell_keeps_its_first_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import flowvae.experiments.train as module

    fit = module.fit
    trained = []

    def counted(*args: Any, **settings: Any) -> Any:
        trained.append(settings["facts"]["experiment"]["second_stage"] is None)
        if trained == [True, False]:
            raise KeyboardInterrupt  # before the first checkpoint of the fit of the prior
        return fit(*args, **settings)

    monkeypatch.setattr(module, "fit", counted)
    with pytest.raises(KeyboardInterrupt):
        run_grid({"two": TWO}, range(1), tmp_path, draws=10, progress=False)
    table = run_grid({"two": TWO}, range(1), tmp_path, draws=10, progress=False).table
    assert trained == [True, False, False]
    assert list(table["epochs"]) == [7]
