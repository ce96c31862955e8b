"""A folder of images: grey or RGB, with classes and splits as folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from flowvae.cli.command import main
from flowvae.core.errors import FlowvaeError
from flowvae.core.parts import Condition
from flowvae.data import Images, Preprocessing
from flowvae.data.access import to_tensor
from flowvae.data.batch import redrawn
from flowvae.data.conditions import condition_of
from flowvae.data.dataset import SPLITS
from flowvae.data.images.decoding import check_sizes, decode

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 5, 4, 3), dtype=np.uint8)


def save(folder: Path, pixels: np.ndarray, suffix: str = "png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, values in enumerate(pixels):
        Image.fromarray(values).save(folder / f"{number:02}.{suffix}")


def test_rgb_images_are_counts_with_three_channels(tmp_path: Path) -> None:
    save(tmp_path, PIXELS)
    data = Images(tmp_path).load(0)
    assert data.shape == (3, 5, 4)
    assert str(data.likelihood) == "discretized-logistic:255"
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


def test_files_that_are_no_images_here_are_left_out_with_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "a", PIXELS[:10])
    save(tmp_path / "b", PIXELS[10:])
    save(tmp_path / "b" / "deeper", PIXELS[:3])
    save(tmp_path / ".hidden", PIXELS[:3])
    for name in ("a/1.HEIC", "a/2.heic", "b/notes.txt", "b/LICENSE", "b/.cache"):
        (tmp_path / name).touch()
    with pytest.warns(UserWarning, match="left out") as said:
        data = Images(tmp_path).load(0)
    assert sum(len(getattr(data, split)) for split in SPLITS) == 20
    assert len(said) == 1
    text = str(said[0].message)
    assert all(part in text for part in (f"{tmp_path}", "2 .heic", "3 .png", "1 .txt", "1 no ending", ".jpg"))
    monkeypatch.setattr(Image, "registered_extensions", lambda: {".heic": "PNG"})  # as a plugin does it
    for name in ("1.HEIC", "2.heic"):
        Image.fromarray(PIXELS[0]).save(tmp_path / "a" / name, format="PNG")
    with pytest.warns(UserWarning, match=r"left out 3 \.png, 1 ") as said:
        data = Images(tmp_path).load(0)
    assert sum(len(getattr(data, split)) for split in SPLITS) == 22


@pytest.mark.parametrize("folder", ["", "a"])
def test_a_folder_of_other_files_alone_says_which(folder: str, tmp_path: Path) -> None:
    (tmp_path / folder).mkdir(exist_ok=True)
    for number in range(3):
        (tmp_path / folder / f"{number}.heic").touch()
    with pytest.raises(FlowvaeError, match=r"no images.*3 \.heic"):
        Images(tmp_path).load(0)


def test_a_class_that_train_has_not_is_named(tmp_path: Path) -> None:
    save(tmp_path / "train" / "cat", PIXELS[:8])
    save(tmp_path / "train" / "dog", PIXELS[8:16])
    save(tmp_path / "test" / "cats", PIXELS[16:])
    with pytest.warns(UserWarning, match=r"test .*'cats'.*train") as said:
        data = Images(tmp_path).load(0)
    assert len(said) == 1
    condition_of(data, Condition(), "valid")
    with pytest.warns(UserWarning, match=r"test .*'cats'.*train"):
        assert condition_of(data, Condition(), "test").argmax(1).tolist() == [1] * 4


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
    with pytest.raises(FlowvaeError, match=r"5 × 4 \(9\), 2 × 4 \(3\).*resize.*crop"):
        Images(tmp_path).load(0)
    with pytest.raises(FlowvaeError, match=r"00\.png.*crop = 3 × 3.*2 × 4"):
        Images(tmp_path, crop=3).load(0)
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
    save(tmp_path / "mixed", PIXELS)
    Image.fromarray(PIXELS[0, ..., 0]).save(tmp_path / "mixed" / "03.png")
    with pytest.raises(FlowvaeError, match=r"1 grey .* 19 in colour.*--data\.colour"):
        Images(tmp_path / "mixed").load(0)
    assert Images(tmp_path / "mixed", colour="rgb").load(0).shape == (3, 5, 4)
    save(tmp_path / "alpha", np.concatenate([PIXELS, PIXELS[..., :1]], -1))
    with pytest.raises(FlowvaeError, match=r"\d\d\.png.*transparent"):
        Images(tmp_path / "alpha").load(0)
    save(tmp_path / "deep", PIXELS[..., 0].astype(np.uint16) * 257)
    with pytest.raises(FlowvaeError, match=r"00\.png.*I;16.*8 bits"):
        Images(tmp_path / "deep").load(0)


def test_an_image_beyond_pillows_limit_is_too_large_not_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "large", PIXELS)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 8)
    with pytest.raises(FlowvaeError, match=r"00\.png.*smaller"):
        Images(tmp_path / "large").load(0)


PHOTO = Image.fromarray(np.asarray(Image.fromarray(PIXELS[0]).resize((24, 32), Image.Resampling.BICUBIC)))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_other_modes_become_grey_or_rgb(tmp_path: Path, mode: str) -> None:
    suffix = "tif" if mode in ("CMYK", "YCbCr") else "png"
    (PHOTO.convert("L") if mode == "LA" else PHOTO).convert(mode).save(tmp_path / f"x.{suffix}")
    found = decode(tmp_path / f"x.{suffix}")
    with Image.open(tmp_path / f"x.{suffix}") as image:
        expected = np.asarray(image.convert("L" if mode in ("1", "L", "LA") else "RGB"))
    assert found.shape == (1 if expected.ndim == 2 else 3, 32, 24)
    assert (found.numpy() == (expected[None] if expected.ndim == 2 else expected.transpose(2, 0, 1))).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_upright(tmp_path: Path, orientation: int) -> None:
    """Every EXIF orientation of a picture gives the picture."""
    back = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_90"}
    back |= {7: "TRANSVERSE", 8: "ROTATE_270"}
    stored = PHOTO if orientation == 1 else PHOTO.transpose(Image.Transpose[back[orientation]])
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "x.png", exif=exif)
    assert (decode(tmp_path / "x.png").permute(1, 2, 0).numpy() == np.asarray(PHOTO)).all()
    assert check_sizes("", [tmp_path / "x.png"], Preprocessing()) == (3, 32, 24)


@pytest.mark.parametrize("workers", [0, 1])
def test_photographs_of_different_sizes(tmp_path: Path, workers: int) -> None:
    for number in range(12):
        size = ((24, 32), (40, 24), (30, 30))[number % 3]
        PHOTO.resize(size).save(tmp_path / f"{number:02}.jpg")
    settings: dict[str, Any] = {"resize": 16, "crop": 12, "workers": workers, "likelihood": "binomial:255"}
    data = Images(tmp_path, **settings).load(0)
    assert data.shape == Images(tmp_path, **settings).shape == (3, 12, 12)
    assert "shorter side" in data.identity.preprocessing
    expected = Preprocessing(resize=16, crop=12).resized(decode(tmp_path / "00.jpg")[None])[0].float()
    found = torch.cat([to_tensor(getattr(data, split), "") for split in SPLITS])
    assert any(torch.equal(image, expected) for image in found)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("values", ["threshold", "fixed", "dynamic"])
def test_colour_images_as_bits_are_warned_of(values: str, workers: int, tmp_path: Path) -> None:
    save(tmp_path, PIXELS)
    with pytest.warns(UserWarning, match=rf"colour with values = '{values}'.*8 colours.*colour = 'grey'") as said:
        Images(tmp_path, values=values, workers=workers).load(0)
    assert len(said) == 1
    Images(tmp_path, values=values, colour="grey", workers=workers).load(0)
    Images(tmp_path, workers=workers).load(0)


def test_workers_and_memory_give_the_same_bits(tmp_path: Path) -> None:
    save(tmp_path, PIXELS)
    with pytest.warns(UserWarning, match="8 colours"):
        kept, read = (Images(tmp_path, values="dynamic", flips=True, workers=workers).load(0) for workers in (0, 1))
    assert read.identity == kept.identity
    assert torch.equal(to_tensor(redrawn(read.train, 3), ""), to_tensor(redrawn(kept.train, 3), ""))


def test_a_folder_trains_by_name(tmp_path: Path) -> None:
    save(tmp_path / "x" / "cat", PIXELS)
    words = ["train", "data:images", "--data.path", str(tmp_path / "x"), "--latent", "2", "--inference.epochs", "1"]
    words += ["--out", str(tmp_path / "run"), "--draws", "5", "--encoder.hidden-features", "8"]
    assert main(words) == 0
    assert "family: images" in (tmp_path / "run" / "experiment.yaml").read_text()
