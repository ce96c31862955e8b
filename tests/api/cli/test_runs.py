"""Commands on a trained run: samples, codes of new data, an exported file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from flowvae import MLP, Condition, Experiment, Run, Training, load
from flowvae.cli.command import main
from flowvae.data import Arrays

SMALL: dict[str, Any] = {
    "encoder": MLP((8,)),
    "decoder": MLP((8,)),
    "inference": Training(epochs=1, device="cpu"),
    "latent": 2,
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Run:
    place = tmp_path_factory.mktemp("plain") / "run"
    return Experiment(**SMALL).run(place, draws=2, figures=False, progress=False)


@pytest.fixture(scope="module")
def conditional(tmp_path_factory: pytest.TempPathFactory) -> Run:
    place = tmp_path_factory.mktemp("conditional") / "run"
    experiment = Experiment(condition=Condition(prior=False), **SMALL)
    return experiment.run(place, draws=2, figures=False, progress=False)


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).integers(0, 17, (5, 8, 8))
    np.save("x.npy", x)
    np.save("labels.npy", np.array([1, 0, 3, 9, 2]))
    np.save("rows.npy", x.reshape(5, 64))


def run(*words: object) -> int:
    return main([str(word) for word in words])


def refused(*words: object, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert run(*words) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def test_arrays_of_samples_are_those_of_the_run(plain: Run) -> None:
    assert run("sample", plain.directory, "--out", "draws.npz", "--count", 5, "--seed", 3) == 0
    with np.load("draws.npz") as drawn:
        assert set(drawn) == {"mean", "x"}
        np.testing.assert_array_equal(drawn["mean"], plain.sample(5, seed=3).numpy())
        np.testing.assert_array_equal(drawn["x"], plain.sample(5, of="draws", seed=3).numpy())
        assert set(np.unique(drawn["x"])) <= set(range(17))
        # draws of x scatter around the mean of the same code: a binomial of 16 has at most variance 4
        assert abs(drawn["x"] - drawn["mean"]).mean() < 2
    assert run("sample", plain.directory, "--out", "many.npz") == 0
    with np.load("many.npz") as drawn:
        assert drawn["x"].shape == (64, 1, 8, 8)


def test_samples_of_a_class(conditional: Run, capsys: pytest.CaptureFixture[str]) -> None:
    place = conditional.directory
    assert run("sample", place, "--label", 3, "--count", 4, "--out", "three.npz") == 0
    with np.load("three.npz") as drawn:
        np.testing.assert_array_equal(drawn["mean"], conditional.sample(4, 3).numpy())
        assert not np.array_equal(drawn["mean"], conditional.sample(4, 4).numpy())
    assert run("sample", place, "--condition", "labels.npy", "--out", "each.npz") == 0
    with np.load("each.npz") as drawn:
        np.testing.assert_array_equal(drawn["mean"], conditional.sample(c=np.load("labels.npy")))
    assert run("sample", place, "--label", 3, "--out", "three.png") == 0
    with Image.open("three.png") as picture:
        assert min(picture.size) > 100
    assert str(place) in refused("sample", place, "--out", "x.npz", capsys=capsys)
    assert "12" in refused("sample", place, "--label", 12, capsys=capsys)
    assert "'cat'" in refused("sample", place, "--label", "cat", capsys=capsys)
    both = refused("sample", place, "--label", 3, "--condition", "labels.npy", capsys=capsys)
    assert "--label" in both
    assert "--condition" in both


def test_the_picture_of_a_run_needs_no_word_more(plain: Run, conditional: Run) -> None:
    for opened in (plain, conditional):
        assert opened.directory is not None
        assert run("sample", opened.directory) == 0
        with Image.open(opened.directory / "samples.png") as picture:
            assert min(picture.size) > 100


def test_a_picture_needs_no_data(capsys: pytest.CaptureFixture[str]) -> None:
    np.savez("data.npz", train=np.random.default_rng(0).integers(0, 2, (60, 8, 8)))
    Experiment(data=Arrays("data.npz", "bernoulli"), **SMALL).run("moved", draws=2, figures=False, progress=False)
    Path("data.npz").unlink()
    capsys.readouterr()
    assert run("sample", "moved", "--out", "alone.png") == 0
    assert "moved" in capsys.readouterr().err
    with Image.open("alone.png") as picture:
        assert min(picture.size) > 100


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("--out", "draws.txt"), "draws.txt"),
        (("--count", 0), "--count 0"),
        (("--label", 3), "3"),
        (("--condition", "none.npy"), "none.npy"),
    ],
)
def test_samples_that_cannot_be_drawn(
    words: tuple[object, ...], part: str, plain: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert part in refused("sample", plain.directory, *words, capsys=capsys)


def test_codes_of_new_data(plain: Run, conditional: Run) -> None:
    x = torch.from_numpy(np.load("x.npy")[:, None])
    assert run("encode", plain.directory, "x.npy", "out/codes.npy") == 0
    np.testing.assert_array_equal(np.load("out/codes.npy"), plain.encode(x).numpy())
    assert run("encode", plain.directory, "x.npy", "draws.npy", "--draws", 3, "--seed", 2) == 0
    np.testing.assert_array_equal(np.load("draws.npy"), plain.encode(x, draws=3, seed=2).numpy())
    for words, c in ((("--label", 3), 3), (("--condition", "labels.npy"), np.load("labels.npy"))):
        assert run("encode", conditional.directory, "x.npy", "codes.npy", *words) == 0
        np.testing.assert_array_equal(np.load("codes.npy"), conditional.encode(x, c).numpy())


def test_data_that_cannot_be_encoded(plain: Run, conditional: Run, capsys: pytest.CaptureFixture[str]) -> None:
    place = plain.directory
    Path("text.npy").write_text("no array")
    np.savez("several.npz", a=np.zeros(3), b=np.zeros(3))
    for words, part in (
        ((place, "none.npy", "z.npy"), "none.npy"),
        ((place, "text.npy", "z.npy"), "text.npy"),
        ((place, "several.npz", "z.npy"), "several.npz"),
        ((place, "rows.npy", "z.npy"), "(5, 64)"),
        ((place, "x.npy", "z.txt"), "z.txt"),
        ((place, "x.npy", "z.npy", "--draws", 0), "0"),
        ((place, "x.npy", "z.npy", "--label", 1), "1"),
        ((conditional.directory, "x.npy", "z.npy"), "--label"),
        (("nowhere", "x.npy", "z.npy"), "nowhere"),
    ):
        assert part in refused("encode", *words, capsys=capsys)
    assert not Path("z.npy").exists()


def test_an_exported_file_is_opened_like_a_run(plain: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("export", plain.directory, "one.safetensors") == 0
    assert load("one.safetensors").experiment == plain.experiment
    assert run("encode", "one.safetensors", "x.npy", "codes.npy") == 0
    np.testing.assert_array_equal(np.load("codes.npy"), plain.encode(np.load("x.npy")[:, None]))
    assert run("sample", "one.safetensors") == 0  # without the data, beside the file
    with Image.open("samples.png") as picture:
        assert min(picture.size) > 100
    assert "one.txt" in refused("export", plain.directory, "one.txt", capsys=capsys)
    assert "nowhere" in refused("export", "nowhere", "one.safetensors", capsys=capsys)


def test_classes_with_names_and_data_that_are_no_images(capsys: pytest.CaptureFixture[str]) -> None:
    names = np.array(["9", "seven"])[np.arange(60) % 2]  # the first looks like a number
    np.savez("table.npz", train=np.random.default_rng(0).integers(0, 2, (60, 6)), labels_train=names)
    line = "train --out table data:arrays --data.path table.npz --data.likelihood bernoulli --latent 2"
    quick = "--inference.epochs 1 --draws 2 --inference.device cpu --condition.no-prior"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flowvae.experiments.train.draw_figures", lambda *_, **__: [])
        assert run(*line.split(), *quick.split()) == 0
    said = refused("sample", "table", "--label", 9, "--out", "one.png", capsys=capsys)
    assert "(6,)" in said
    assert "one.png" in said
    for name in ("9", "seven"):
        assert run("sample", "table", "--label", name, "--count", 3, "--out", "one.npz") == 0
        with np.load("one.npz") as drawn:
            np.testing.assert_array_equal(drawn["mean"], load("table").sample(3, name).numpy())
    assert "seven" in refused("sample", "table", "--label", "sevn", "--out", "one.npz", capsys=capsys)
