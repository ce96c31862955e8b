"""Omniglot: Burda's MATLAB file and Lake's folders, made here."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from torchvision import datasets

from flowvae import FlowvaeError
from flowvae.data import Omniglot, to_tensor
from flowvae.data.published import omniglot as module

RNG = np.random.default_rng(0)
SHADES = RNG.integers(0, 256, (60, 28, 28), dtype=np.uint8)
ALPHABETS = RNG.integers(0, 50, 60)


@pytest.fixture
def burda(tmp_path: Path) -> Path:
    """Columns are images, pixel by pixel down their columns; shades from 0 to 1."""
    columns = SHADES.transpose(0, 2, 1).reshape(60, -1).T / 255
    hot = np.eye(50)[ALPHABETS].T
    arrays = {"data": columns[:, :40], "target": hot[:, :40], "testdata": columns[:, 40:], "testtarget": hot[:, 40:]}
    savemat(tmp_path / "chardata.mat", arrays)
    return tmp_path


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Black strokes on white, 105×105, a folder a character in a folder an alphabet; the archives beside them."""
    folder = tmp_path / "omniglot-py"
    checksums = {}
    for part, alphabets in (("images_background", ("Greek", "Latin")), ("images_evaluation", ("Tengwar",))):
        for alphabet in alphabets:
            for character in ("character01", "character02"):
                place = folder / part / alphabet / character
                place.mkdir(parents=True)
                for number in range(6):
                    pixels = np.full((105, 105), 255, np.uint8)
                    pixels[20 + 5 * number : 40 + 5 * number, 30:70] = 0
                    Image.fromarray(pixels).convert("1").save(place / f"{number:04}.png")
        with zipfile.ZipFile(folder / f"{part}.zip", "w") as archive:
            archive.writestr("images", part)
        checksums[part] = hashlib.md5((folder / f"{part}.zip").read_bytes()).hexdigest()
    monkeypatch.setattr(datasets.Omniglot, "zips_md5", checksums)
    return tmp_path


def test_burdas_images(burda: Path) -> None:
    data = Omniglot(root=burda, values="grey", likelihood="binomial:255").load(0)
    assert torch.equal(data.test, torch.from_numpy(SHADES[40:, None]).float())  # type: ignore[arg-type]
    assert [len(data.train), len(data.valid)] == [36, 4]
    assert data.labels is not None
    assert data.labels["test"].tolist() == ALPHABETS[40:].tolist()
    assert "chardata.mat not verified" in data.identity.split
    assert Omniglot(root=burda).load(1).identity == Omniglot(root=burda).load(0).identity
    held_out = {x.numpy().tobytes() for x in data.valid}  # type: ignore[union-attr]
    assert held_out < {x.astype(np.float32)[None].tobytes() for x in SHADES[:40]}
    assert not held_out & {x.numpy().tobytes() for x in data.train}  # type: ignore[union-attr]


def test_shades_between_grey_levels_keep_their_probability(tmp_path: Path) -> None:
    columns = np.full((784, 20), 0.5011)
    hot = np.eye(50)[np.zeros(20, int)].T
    savemat(tmp_path / "chardata.mat", {"data": columns, "target": hot, "testdata": columns, "testtarget": hot})
    data = Omniglot(root=tmp_path, values="unit").load(0)
    assert data.train.mean().item() == pytest.approx(0.5011, abs=1e-6)  # type: ignore[union-attr]
    bits = to_tensor(Omniglot(root=tmp_path).load(0).train, "")
    assert bits.mean().item() == pytest.approx(0.5011, abs=4 * 0.5 / bits.numel() ** 0.5)
    with pytest.raises(FlowvaeError, match="whole numbers from 0 to 255"):
        Omniglot(root=tmp_path, values="grey", likelihood="binomial:255").load(0)


def test_lakes_drawings(lake: Path) -> None:
    data = Omniglot(root=lake, version="lake", values="unit").load(0)
    assert data.shape == (1, 28, 28)
    assert [len(data.train), len(data.valid), len(data.test)] == [22, 2, 12]
    assert data.classes == ("Greek", "Latin", "Tengwar")
    assert data.labels is not None
    assert data.labels["test"].tolist() == [2] * 12
    assert data.test.mean().item() == pytest.approx(20 * 40 / 105**2, rel=0.02)  # type: ignore[union-attr]  # of ink
    first = data.test[0, 0]  # type: ignore[index]
    assert first[6:10, 9:18].min() > 0.9
    assert first[12:].max() == 0


def test_versions_differ_in_their_identity(lake: Path, burda: Path) -> None:
    texts = {Omniglot(root=burda, version=version).load(0).identity.preprocessing for version in ("burda", "lake")}
    assert len(texts) == 2


def test_as_many_validation_images_as_in_published_figures() -> None:
    assert min(module.VALID, 24_345 // 10) == 1345  # of Burda's training images, 23,000 are left


def test_missing_and_damaged_files_are_refused(burda: Path) -> None:
    with pytest.raises(FlowvaeError, match=r"chardata\.mat.*github\.com/yburda/iwae"):
        Omniglot(root=burda / "none").load(0)
    with pytest.raises(FlowvaeError, match=r"checksum.*github\.com/yburda/iwae"):
        Omniglot(root=burda / "none", download=True).load(0)
    with pytest.raises(FlowvaeError, match=r"omniglot-py.*--data\.download"):
        Omniglot(root=burda, version="lake").load(0)
    with pytest.raises(FlowvaeError, match=r"'brenden'.*burda"):
        Omniglot(version="brenden")
    file = burda / "chardata.mat"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(FlowvaeError, match=r"chardata\.mat: is damaged|holds no array"):
        Omniglot(root=burda).load(0)


def test_archives_that_were_not_unpacked_are_refused(lake: Path) -> None:
    for file in (lake / "omniglot-py" / "images_evaluation").glob("*/*/*.png"):
        file.unlink()
    with pytest.raises(FlowvaeError, match=r"images_evaluation'.*unpack"):
        Omniglot(root=lake, version="lake").load(0)
