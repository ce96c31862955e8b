"""Image data sets as a whole: what intensities they take."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flowvae.core.errors import FlowvaeError
from flowvae.data import Images, as_data


@pytest.mark.parametrize("mapped", [False, True])
def test_fractions_plus_noise_have_no_code_length(tmp_path: Path, mapped: bool) -> None:
    x = np.full((20, 4, 4), 0.3, np.float32) if not mapped else np.full((20, 4, 4), 76.5, np.float32)
    np.save(tmp_path / "x.npy", x)
    given = np.load(tmp_path / "x.npy", mmap_mode="r" if mapped else None)
    with pytest.raises(FlowvaeError, match=r"76\.5.*dequantized"):
        as_data(given, values="dequantized").load(0)
    assert as_data(given, values="dequantized", levels=128).load(0).dequantized  # rounded down to counts
    assert not as_data(given, values="unit").load(0).dequantized


def test_all_splits_have_one_scale() -> None:
    """A split whose float intensities are all 0 or 1 is no split of fractions beside one that reaches 255."""
    x = np.random.default_rng(0).integers(0, 256, (20, 4, 4)).astype(np.float32)
    with pytest.raises(FlowvaeError, match=r"valid.*0 to 1\b"):
        as_data({"train": x, "valid": (x[:5] > 127).astype(np.float32), "test": x[5:]}, values="unit").load(0)
    parts = as_data({"train": x / 255, "valid": x[:5] / 255, "test": x[5:] / 255}, values="unit").load(0)
    torch.testing.assert_close(parts.valid, torch.from_numpy(x[:5, None] / 255))


def test_a_limit_takes_images_of_every_class(tmp_path: Path) -> None:
    shades = np.arange(200, dtype=np.uint8)
    for number, shade in enumerate(shades):
        folder = tmp_path / ("train" if number < 120 else "test") / ("a" if number % 120 < 60 else "b")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((3, 3), shade)).save(folder / f"{number:03}.png")
    every = Images(tmp_path, values="dynamic", flips=True).load(0)
    few = Images(tmp_path, values="dynamic", flips=True, limit=10).load(0)
    assert [len(part) for part in (few.train, few.valid, few.test)] == [10, 10, 10]
    assert every.labels is not None
    assert few.labels is not None
    assert few.labels["train"].unique().tolist() == few.labels["test"].unique().tolist() == [0, 1]
    assert torch.equal(few.test, every.test[::8])  # 80 test images
    assert torch.equal(few.labels["test"], every.labels["test"][::8])
    at = torch.arange(10) * len(every.train) // 10
    assert torch.equal(few.train[:], every.train[at])
    assert torch.equal(few.labels["train"], every.labels["train"][at])
    assert "10" in few.identity.split
    assert few.identity != every.identity
    assert Images(tmp_path, limit=1000).load(0).identity.sha256 == Images(tmp_path).load(0).identity.sha256
    with pytest.raises(FlowvaeError, match="limit = 0"):
        Images(tmp_path, limit=0)


def test_what_only_training_sees_is_in_the_checksum() -> None:
    """Flips change no value of an ordinary reading, yet data with and without them are two protocols."""
    x = np.random.default_rng(0).integers(0, 256, (30, 4, 4)).astype(np.uint8)
    plain, flipped = (as_data(x, values="grey", flips=flips).load(0) for flips in (False, True))
    assert torch.equal(plain.train[:], flipped.train[:])
    assert plain.identity.sha256 != flipped.identity.sha256
