"""Experiments: YAML, running, loading, resuming and refusing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers import HANGS

from flowvae import (
    IAF,
    MAF,
    NSF,
    Arrays,
    CouplingNSF,
    Experiment,
    FlowGuide,
    FlowvaeError,
    FullRank,
    Gaussian,
    Inverse,
    Mixture,
    SlowDirectionWarning,
    StandardNormal,
    Training,
    load,
)
from flowvae.cli.family_table import table
from flowvae.core.registry import families, name_of
from flowvae.evaluation import FIGURES
from flowvae.experiments.serialization import from_plain, to_plain
from flowvae.inference import load_checkpoint
from flowvae.models import BinomialLikelihood
from flowvae.networks import MLP

TINY = Experiment(
    latent=3,
    encoder=MLP((16,)),
    decoder=MLP((16,)),
    inference=Training(epochs=2, device="cpu", checkpoint_seconds=0.0),
    prior=MAF(2, (8,)),
    guide=FlowGuide(IAF(1, (8,)), context=4),
)


def experiments() -> list[Experiment]:
    return [
        Experiment(),
        TINY,
        Experiment(prior=Mixture(4), guide=FullRank(), inference=Training(clip=None)),
        Experiment(prior=Inverse(NSF(bins=4)), guide=FlowGuide(Inverse(CouplingNSF()), conditioned=False)),
        Experiment(data=Arrays(Path("mine.npz"), BinomialLikelihood(255))),
    ]


@pytest.mark.parametrize("experiment", experiments())
def test_yaml_round_trip(experiment: Experiment, tmp_path: Path) -> None:
    experiment.to_yaml(tmp_path / "e.yaml")
    assert Experiment.from_yaml(tmp_path / "e.yaml") == experiment
    assert yaml.safe_load((tmp_path / "e.yaml").read_text())["latent"] == experiment.latent


@pytest.mark.parametrize("kind", ["prior", "guide"])
def test_every_family_survives_its_name(kind: str) -> None:
    for name, family in families(kind).items():
        spec = family.default
        assert name_of(spec) == name
        assert from_plain(kind, name) == spec
        assert from_plain(kind, to_plain(spec)) == spec


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prior: mfa", "did you mean maf"),
        ("prior: {family: maf, bins: 3}", "it is a setting of nsf"),
        ("prior: planar", "cannot be a prior: the density of a value that it did not draw"),
        ("prior: {transforms: 3}", "no setting 'transforms'; it is a setting of .*maf"),
        ("guide: {family: iaf, components: 3}", "no setting 'components'"),
        ("laten: 3", "did you mean latent"),
        ("inference: {epoch: 3}", "did you mean epochs"),
        ("inference: 3", "settings by name"),
        ("latent: eight", "latent = 'eight'"),
        ("latent: 8.0", "latent = 8.0"),
        ("seed: 4294967296", "seed = 4294967296: must be a whole number, 0 to 4294967295"),
        ("inference: {learning_rate: 1e-3}", "write 1.0e-3"),
        ("inference: {learning_rate: 2.5e4}", r"write 2.5e\+4"),
        ("inference: {learning_rate: '0.5'}", "write 0.5 without quotes"),
        ("inference: {learning_rate: fast}", r"learning_rate = 'fast': must be a number above 0\.$"),
        ("inference: {learning_rate: nan}", r"learning_rate = 'nan': must be a number above 0\.$"),
        ("data: {family: arrays, path: 3, likelihood: bernoulli}", r"data\.path = 3: must be the path"),
        ("data: {family: static-mnist, path: 3}", r"data\.path = 3: must be the path"),
        ("data: {family: arrays, path: x.npz, likelihood: 4}", r"data\.likelihood = 4.*bernoulli"),
        ("data: {family: arrays, path: x.npz}", r"data\.path = 'x\.npz': no such file"),
        ("- 3", "settings by name"),
        ("prior: !!python/object/apply:os.system [true]", "tags"),
        ("latent: [", "not plain YAML"),
        ("prior: {family: maf, hidden_features: [8, x]}", "hidden_features"),
    ],
)
def test_wrong_yaml_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "e.yaml").write_text(text)
    with pytest.raises(FlowvaeError, match=message):
        Experiment.from_yaml(tmp_path / "e.yaml")


@pytest.mark.parametrize("spec", [MAF(), NSF(), CouplingNSF()])
def test_one_latent_dimension_with_a_flow_is_refused_before_any_work(spec: MAF, tmp_path: Path) -> None:
    with pytest.raises(FlowvaeError, match="latent = 1"):
        replace(TINY, latent=1, prior=spec, guide=Gaussian()).run(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_parts_of_another_kind_are_refused() -> None:
    with pytest.raises(FlowvaeError, match=r"Experiment\.prior"):
        Experiment(prior=Gaussian())  # type: ignore[arg-type]
    with pytest.raises(FlowvaeError, match=r"Experiment\.guide.*FlowGuide\(MAF"):
        Experiment(guide=MAF())  # type: ignore[arg-type]


def test_a_flow_in_its_slow_direction_warns_with_both_costs() -> None:
    data = Experiment().data.load(0)
    with pytest.warns(SlowDirectionWarning, match=r"18 network passes at latent 8.*costs 2"):
        Experiment(prior=IAF()).build(data)
    with pytest.warns(SlowDirectionWarning, match=r"18 network passes at latent 8.*costs 2"):
        Experiment(guide=FlowGuide(MAF())).build(data)


def test_run_and_load(tmp_path: Path) -> None:
    run = TINY.run(tmp_path / "run", draws=20, progress=False)
    files = {str(path.relative_to(tmp_path / "run")) for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert files == {
        ".lock",
        "experiment.yaml",
        "checkpoint.safetensors",
        "history.csv",
        "metrics.json",
        *(f"figures/{name}.png" for name in FIGURES),
    }
    again = load(tmp_path / "run")
    assert again.experiment == TINY
    assert again.metrics == run.metrics
    for name, value in run.pair.model.state_dict().items():
        assert torch.equal(value, again.pair.model.state_dict()[name])
    before = {metric.name: metric.value for metric in run.metrics}
    assert run.metric("nll").value == before["nll"]
    with pytest.raises(FlowvaeError, match="did you mean nll"):
        run.metric("nl")
    for metric in again.evaluate(draws=20, progress=False):
        assert metric.value == before[metric.name]
    again.evaluate(split="valid", draws=20, progress=False)
    assert {metric.split for metric in again.metrics} == {"test", "valid"}
    assert len(again.metrics) == 2 * len(before)
    with pytest.raises(FlowvaeError, match="split = 'tset'"):
        again.evaluate(split="tset")


def test_a_run_that_exists_is_kept(tmp_path: Path) -> None:
    TINY.run(tmp_path / "run", draws=5, progress=False)
    before = (tmp_path / "run" / "checkpoint.safetensors").read_bytes()
    with pytest.raises(FlowvaeError, match="exists"):
        TINY.run(tmp_path / "run", draws=5, progress=False)
    assert (tmp_path / "run" / "checkpoint.safetensors").read_bytes() == before
    other = replace(TINY, seed=1)
    with pytest.raises(FlowvaeError, match="another experiment"):
        other.run(tmp_path / "run", resume=True, progress=False)
    other.run(tmp_path / "run", overwrite=True, draws=5, progress=False)
    assert load(tmp_path / "run").experiment == other


def test_overwrite_deletes_nothing_but_runs(tmp_path: Path) -> None:
    (tmp_path / "letters").write_text("dear")
    with pytest.raises(FlowvaeError, match="not a run"):
        TINY.run(tmp_path, overwrite=True)
    with pytest.raises(FlowvaeError, match="is a file"):
        TINY.run(tmp_path / "letters", overwrite=True)
    assert (tmp_path / "letters").read_text() == "dear"


def test_what_does_not_match_its_checkpoint_is_refused(tmp_path: Path) -> None:
    TINY.run(tmp_path / "run", draws=5, progress=False)
    replace(TINY, prior=MAF(3, (8,))).to_yaml(tmp_path / "run" / "experiment.yaml")
    with pytest.raises(FlowvaeError, match="does not match its checkpoint in prior"):
        load(tmp_path / "run")
    TINY.to_yaml(tmp_path / "run" / "experiment.yaml")
    load(tmp_path / "run")
    (tmp_path / "run" / "checkpoint.safetensors").unlink()
    with pytest.raises(FlowvaeError, match="no such checkpoint"):
        load(tmp_path / "run")
    with pytest.raises(FlowvaeError, match="no such file"):
        load(tmp_path / "nowhere")


def test_data_that_changed_are_noticed(tmp_path: Path) -> None:
    import numpy as np

    path = tmp_path / "mine.npz"
    x = np.random.default_rng(0).integers(0, 2, (60, 5))
    np.savez(path, train=x)
    experiment = replace(TINY, data=Arrays(path, from_plain_likelihood()))
    experiment.run(tmp_path / "run", draws=5, progress=False)
    np.savez(path, train=1 - x)
    run = load(tmp_path / "run")  # which needs no data
    with pytest.raises(FlowvaeError, match="was trained on"):
        _ = run.data


def from_plain_likelihood():  # type: ignore[no-untyped-def]
    from flowvae.models import BernoulliLikelihood

    return BernoulliLikelihood()


KILLED = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets what it starts in the background ignore it
from flowvae import Experiment
import flowvae.inference
module = sys.modules["flowvae.inference.training_state"]
save, saved = module.save_checkpoint, []
def save_and_die(*args, **kwargs):
    save(*args, **kwargs)
    saved.append(1)
    if len(saved) == 7:
        os.kill(os.getpid(), int(sys.argv[3]))
module.save_checkpoint = save_and_die
Experiment.from_yaml(sys.argv[1]).run(sys.argv[2], draws=20, progress=False)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_goes_on_to_the_same_end(how: signal.Signals, tmp_path: Path) -> None:
    experiment = replace(TINY, inference=replace(TINY.inference, epochs=30, checkpoint_seconds=0.0))
    experiment.to_yaml(tmp_path / "e.yaml")
    whole = experiment.run(tmp_path / "whole", draws=20, progress=False)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "e.yaml"), str(tmp_path / "killed"), str(int(how))],
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=HANGS,
    )
    assert killed.returncode != 0
    checkpoint = tmp_path / "killed" / "checkpoint.safetensors"
    _, facts = load_checkpoint(checkpoint)
    assert 0 < facts["progress"]["epoch"] < 30
    resumed = experiment.run(tmp_path / "killed", resume=True, draws=20, progress=False)
    assert resumed.metrics == whole.metrics
    one, _ = load_checkpoint(tmp_path / "whole" / "checkpoint.safetensors")
    two, _ = load_checkpoint(checkpoint)
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert torch.equal(value, two[name]), name


def test_resume_of_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    run = TINY.run(tmp_path / "run", draws=20, progress=False)
    shutil.rmtree(tmp_path / "run" / "figures")
    again = TINY.run(tmp_path / "run", resume=True, draws=20, progress=False)
    assert again.metrics == run.metrics
    assert (tmp_path / "run" / "figures" / "latent.png").is_file()


def test_the_table_of_families() -> None:
    rows = {row.name: row for row in table(latent=8)}
    assert (rows["maf"].density, rows["maf"].sample) == (2, 16)
    assert rows["iaf"].sample_and_density == 2
    assert rows["normal"].roles == ("prior",)
    assert rows["planar"].roles == ("posterior",)
    assert not rows["naf"].proper
    assert rows["nsf"].proper
    assert rows["gaussian"].roles == ("posterior",)
    assert all(row.paper[-4:].isdigit() for row in rows.values())
    assert StandardNormal().cost(8).density == 0


def test_a_shape_of_numpy_numbers_is_a_shape_of_plain_ones() -> None:
    experiment = Experiment(latent=(np.int64(1), *np.array([4, 4])))
    assert experiment == Experiment(latent=(1, 4, 4))
    assert Experiment.from_dict(experiment.to_dict()) == experiment
    for wrong in ((True, 2), (np.bool_(True), 2), (np.float64(2), 2)):
        with pytest.raises(FlowvaeError, match="latent"):
            Experiment(latent=wrong)
