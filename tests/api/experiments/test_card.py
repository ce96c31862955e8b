"""A model card says what a run is: its front matter is what a hub reads, and its code opens the file."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from flowvae import MAF, Arrays, Condition, Experiment, FlowGuide, FlowvaeError, SecondStage, Training, load, train
from flowvae.cli.command import main
from flowvae.core.errors import ImproperDensityWarning, SlowDirectionWarning
from flowvae.experiments.card import is_card, model_card
from flowvae.experiments.export import export_run
from flowvae.experiments.portable import read_file
from flowvae.experiments.run import Run
from flowvae.flows import NAF
from flowvae.networks import MLP

QUICK = Training(epochs=2, device="cpu", patience=7)
SMALL: dict[str, Any] = {"latent": 2, "encoder": MLP((8,)), "decoder": MLP((8,)), "inference": QUICK}
RNG = np.random.default_rng(0)


def trained(folder: Path, likelihood: str, **parts: Any) -> Path:
    """A run in a folder, of images with names of classes."""
    x = RNG.integers(0, 2, (60, 1, 4, 4)) if likelihood == "bernoulli" else RNG.normal(size=(60, 3))
    names = np.array(["a|b", "cat", "dog"])[RNG.integers(0, 3, 60)]
    np.savez(folder / "mine.npz", train=x, labels=names)
    experiment = Experiment(**{**SMALL, "data": Arrays(folder / "mine.npz", likelihood), **parts})  # type: ignore[arg-type]
    train(experiment, folder / "run", draws=20, figures=False, progress=False)
    return folder / "run"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("images"), "bernoulli", second_stage=SecondStage(MAF(1, (8,)), QUICK))


@pytest.fixture(scope="module")
def conditional(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("conditional"), "gaussian", condition=Condition(prior=False))


def card(run: Path, folder: Path, **how: Any) -> tuple[dict[str, Any], str]:
    """Front matter and body of the card of a run."""
    export_run(run, folder / "model.safetensors", **how)
    text = (folder / "model.md").read_text()
    assert is_card(text)
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body


def test_the_front_matter_has_the_measures(images: Path, tmp_path: Path) -> None:
    run = load(images)
    run.evaluate(split="valid", draws=30, progress=False)
    front, _ = card(images, tmp_path, licence="mit")
    assert front["library_name"] == "flowvae"
    assert front["license"] == "mit"
    assert front["pipeline_tag"] == "unconditional-image-generation"
    (entry,) = front["model-index"]
    stored = {
        (result["dataset"]["split"], metric["type"]): metric["value"]
        for result in entry["results"]
        for metric in result["metrics"]
    }
    assert stored == {(m.split, m.name): m.value for m in run.metrics if m.caution is None}
    assert len({m.split for m in run.metrics}) == len(entry["results"]) == 2  # no two protocols in one table
    for result in entry["results"]:
        assert result["dataset"]["revision"] == run.identity["sha256"]
        draws = {"test": 20, "valid": 30}[result["dataset"]["split"]]
        assert f"K = {draws}" in next(m["name"] for m in result["metrics"] if m["type"] == "elbo")


def test_a_hub_reads_the_front_matter(images: Path, tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="an extra: pip install -e '.[hub]'")
    card(images, tmp_path)
    read = hub.ModelCard.load(tmp_path / "model.md", ignore_metadata_errors=False)
    found = {(result.dataset_split, result.metric_type): result.metric_value for result in read.data.eval_results}
    assert found == {(m.split, m.name): m.value for m in load(images).metrics if m.caution is None}
    assert read.data.model_name == "model"
    assert read.data.library_name == "flowvae"


def test_a_figure_that_is_not_to_be_trusted_is_no_result(images: Path, tmp_path: Path) -> None:
    export_run(images, tmp_path / "model.safetensors")
    exported = read_file(tmp_path / "model.safetensors")
    doubtful = [replace(m, caution="far off" if m.name == "nll" else None) for m in exported.metrics]
    text = model_card(exported._replace(metrics=doubtful), "mine", "pass")
    front = yaml.safe_load(text.split("---\n")[1])
    names = {metric["type"] for result in front["model-index"][0]["results"] for metric in result["metrics"]}
    assert "nll" not in names
    assert "elbo" in names
    assert "far off" in text


@pytest.mark.parametrize("kind", ["images", "conditional"])
def test_its_code_opens_the_file(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place: Path = request.getfixturevalue(kind)
    _, body = card(place, tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", body, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code, names)
    assert isinstance(names["run"], Run)
    assert names["x"].shape == (16, *load(place).signature.shape)


def test_the_body_says_what_the_run_is(images: Path, tmp_path: Path) -> None:
    run = load(images)
    _, body = card(images, tmp_path)
    nll = run.metric("nll")
    epochs = " + ".join(str(len(history)) for history in run.histories)
    for said in (
        *run.identity.values(),
        f"{run.parameters:,}",
        f"{nll.value:.6g}",
        f"{nll.se:.3g}",
        "nats per datum",
        f"epochs taken | {epochs} |",
        "patience 7",
        "MAF(transforms=1",
        "upper bound",
        "Not stated",
    ):
        assert said in body
    assert str(images.parent) not in body  # a place of this machine
    assert "density: it depends on the units" not in body  # of bits


def test_limits_of_densities_and_slow_flows(tmp_path: Path, conditional: Path) -> None:
    front, body = card(conditional, tmp_path)
    assert "pipeline_tag" not in front
    assert "depends on the units" in body
    assert "a\\|b, cat, dog" in body  # a cell of a table
    parts = {"prior": NAF(1, (8,)), "guide": FlowGuide(MAF(1, (8,))), "latent": 8}
    with pytest.warns(ImproperDensityWarning) as improper, pytest.warns(SlowDirectionWarning) as slow:
        place = trained(tmp_path, "bernoulli", **parts)
    _, body = card(place, tmp_path)
    for told in (improper, slow):
        assert str(told[0].message) in body


def test_a_page_of_somebody_else_is_kept(images: Path, tmp_path: Path) -> None:
    (tmp_path / "model.md").write_text("# My notes\n")
    with pytest.raises(FlowvaeError, match=r"model\.md"):
        export_run(images, tmp_path / "model.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["model.md"]
    (tmp_path / "model.md").unlink()
    (tmp_path / "model.md").symlink_to(tmp_path / "elsewhere.md")
    with pytest.raises(FlowvaeError, match=r"model\.md"):
        export_run(images, tmp_path / "model.safetensors")
    (tmp_path / "model.md").unlink()
    first = card(images, tmp_path)
    assert card(images, tmp_path) == first  # its own is replaced


@pytest.mark.parametrize("licence", ["", "a\nb", "x" * 200, 3])
def test_a_licence_is_a_line(licence: Any, images: Path, tmp_path: Path) -> None:
    with pytest.raises(FlowvaeError, match="licence"):
        export_run(images, tmp_path / "model.safetensors", licence)
    assert not list(tmp_path.iterdir())


def test_on_the_command_line(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(images), str(tmp_path / "m.safetensors"), "--licence", "cc-by-4.0"]) == 0
    assert "m.md" in capsys.readouterr().out
    assert yaml.safe_load((tmp_path / "m.md").read_text().split("---\n")[1])["license"] == "cc-by-4.0"
