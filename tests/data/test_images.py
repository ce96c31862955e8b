"""A folder of images: grey or RGB, with classes and splits as folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flowvae.cli.command import main
from flowvae.core.errors import FlowvaeError
from flowvae.data import Images
from flowvae.data.access import to_tensor
from flowvae.data.dataset import SPLITS

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 5, 4, 3), dtype=np.uint8)


def save(folder: Path, pixels: np.ndarray, suffix: str = "png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, values in enumerate(pixels):
        Image.fromarray(values).save(folder / f"{number:02}.{suffix}")


def test_rgb_images_are_counts_with_three_channels(tmp_path: Path) -> None:
    save(tmp_path, PIXELS)
    (tmp_path / "notes.txt").write_text("not an image")
    data = Images(tmp_path).load(0)
    assert data.shape == (3, 5, 4)
    assert str(data.likelihood) == "binomial:255"
    assert data.labels is None
    found = torch.cat([getattr(data, split) for split in SPLITS]).flatten(1).tolist()
    assert sorted(found) == sorted(PIXELS.transpose(0, 3, 1, 2).reshape(20, -1).astype(float).tolist())


def test_folders_are_classes(tmp_path: Path) -> None:
    grey = PIXELS[..., 0].copy()
    grey[:8, 0, 0], grey[8:, 0, 0] = 0, 1
    save(tmp_path / "cat", grey[:8])
    save(tmp_path / "dog", grey[8:])
    data = Images(tmp_path).load(0)
    assert data.shape == (1, 5, 4)
    assert data.classes == ("cat", "dog")
    assert data.labels is not None
    for split in SPLITS:
        assert torch.equal(data.labels[split].float(), getattr(data, split)[:, 0, 0, 0])


@pytest.mark.parametrize("workers", [0, 1])
def test_folders_are_splits(tmp_path: Path, workers: int) -> None:
    save(tmp_path / "train" / "cat", PIXELS[:6])
    save(tmp_path / "train" / "dog", PIXELS[6:9])
    save(tmp_path / "test" / "dog", PIXELS[10:])
    data = Images(tmp_path, workers=workers).load(0)
    expected = torch.from_numpy(PIXELS[10:].transpose(0, 3, 1, 2)).float()
    assert torch.equal(to_tensor(data.test, "test"), expected)
    assert isinstance(data.test, torch.Tensor) == (workers == 0)
    assert data.labels is not None
    assert data.labels["test"].tolist() == [1] * 10
    assert (len(data.train), len(data.valid)) == (7, 2)
    assert data.classes == ("cat", "dog")


def test_what_is_wrong_with_a_folder(tmp_path: Path) -> None:
    with pytest.raises(FlowvaeError, match="no such folder"):
        Images(tmp_path / "none").load(0)
    with pytest.raises(FlowvaeError, match="no images"):
        Images(tmp_path).load(0)
    save(tmp_path / "a", PIXELS[:9])
    (tmp_path / "b").mkdir()
    with pytest.raises(FlowvaeError, match="folder b"):
        Images(tmp_path).load(0)
    save(tmp_path / "b", PIXELS[:3, :2])
    with pytest.raises(FlowvaeError, match=r"item 9 .*\(3, 2, 4\).*\(3, 5, 4\)"):
        Images(tmp_path).load(0)
    save(tmp_path, PIXELS[:1])
    with pytest.raises(FlowvaeError, match="beside the folder a"):
        Images(tmp_path).load(0)
    save(tmp_path / "split" / "train", PIXELS)
    save(tmp_path / "split" / "val", PIXELS)
    with pytest.raises(FlowvaeError, match=r"val .*did you mean valid"):
        Images(tmp_path / "split").load(0)


def test_what_is_wrong_with_an_image(tmp_path: Path) -> None:
    save(tmp_path / "cut", PIXELS)
    file = tmp_path / "cut" / "07.png"
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(FlowvaeError, match=r"07\.png"):
        Images(tmp_path / "cut").load(0)
    save(tmp_path / "alpha", np.concatenate([PIXELS, PIXELS[..., :1]], -1))
    with pytest.raises(FlowvaeError, match=r"00\.png.*RGBA"):
        Images(tmp_path / "alpha").load(0)
    save(tmp_path / "mixed", PIXELS)
    Image.fromarray(PIXELS[0, ..., 0]).save(tmp_path / "mixed" / "03.png")
    with pytest.raises(FlowvaeError, match=r"item 3 .*\(1, 5, 4\)"):
        Images(tmp_path / "mixed").load(0)


def test_a_folder_trains_by_name(tmp_path: Path) -> None:
    save(tmp_path / "x" / "cat", PIXELS)
    words = ["train", "data:images", "--data.path", str(tmp_path / "x"), "--latent", "2", "--inference.epochs", "1"]
    words += ["--out", str(tmp_path / "run"), "--draws", "5", "--encoder.hidden-features", "8"]
    assert main(words) == 0
    assert "family: images" in (tmp_path / "run" / "experiment.yaml").read_text()
