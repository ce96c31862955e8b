"""CelebA in its own file format, made here and read by torchvision."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from flowvae import FlowvaeError
from flowvae.data import CelebA

SPLITS = [0, 0, 0, 0, 1, 1, 2, 2, 0, 0]
SMILING = [1, -1, 1, 1, -1, 1, -1, 1, -1, -1]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ten photographs 218 high and 178 wide: the left half black, the right half of a shade of its own."""
    folder = tmp_path / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    names = [f"{i + 1:06}.jpg" for i in range(10)]
    for i, name in enumerate(names):
        pixels = np.zeros((218, 178, 3), np.uint8)
        pixels[:, 89:] = 20 * i + 20
        Image.fromarray(pixels).save(folder / "img_align_celeba" / name, quality=95)
    tables = {
        "list_eval_partition.txt": [f"{n} {s}" for n, s in zip(names, SPLITS, strict=True)],
        "identity_CelebA.txt": [f"{n} {i}" for i, n in enumerate(names)],
        "list_bbox_celeba.txt": ["10", "image_id x_1 y_1 width height", *(f"{n} 1 2 3 4" for n in names)],
        "list_landmarks_align_celeba.txt": ["10", "lefteye_x lefteye_y", *(f"{n} 1 2" for n in names)],
        "list_attr_celeba.txt": ["10", "Male Smiling ", *(f"{n} 1 {s}" for n, s in zip(names, SMILING, strict=True))],
    }
    files = [("", "", "img_align_celeba.zip")]
    for name, lines in tables.items():
        (folder / name).write_text("\n".join(lines) + "\n")
        files.append(("", hashlib.md5((folder / name).read_bytes()).hexdigest(), name))
    monkeypatch.setattr(datasets.CelebA, "file_list", files)
    return tmp_path


def test_faces_are_cut_out_and_resized(root: Path) -> None:
    data = CelebA(root=root, likelihood="binomial:255").load(0)
    assert data.shape == CelebA().shape == (3, 64, 64)
    assert [len(x) for x in (data.train, data.valid, data.test)] == [6, 2, 2]
    shades = data.train[:, :, :, 40:].mean((1, 2, 3))  # type: ignore[index]
    assert torch.allclose(shades, torch.tensor([20.0, 40, 60, 80, 180, 200]), atol=2)
    assert data.train[:, :, :, :24].max() < 10  # type: ignore[index]
    assert data.labels is not None
    assert data.labels["train"].tolist() == [1, 0, 1, 1, 0, 0]
    assert data.classes == ("not Smiling", "Smiling")
    assert "148 × 148" in data.preprocessing


def test_settings(root: Path) -> None:
    data = CelebA(root=root, face=140, resize=None, crop=100, colour="grey", attribute="Male", values="unit").load(0)
    assert data.shape == (1, 100, 100)
    assert "140 × 140" in data.preprocessing
    assert data.labels is not None
    assert data.labels["test"].tolist() == [1, 1]
    with pytest.raises(FlowvaeError, match=r"'Smilling'.*Smiling"):
        CelebA(root=root, attribute="Smilling").load(0)
    with pytest.raises(FlowvaeError, match=r"face = 200"):
        CelebA(face=200)


def test_missing_and_damaged_files_are_refused(root: Path) -> None:
    with pytest.raises(FlowvaeError, match=r"img_align_celeba.*--data\.download"):
        CelebA(root=root / "none").load(0)
    (root / "celeba" / "img_align_celeba" / "000003.jpg").write_bytes(b"no image")
    with pytest.raises(FlowvaeError, match=r"000003\.jpg.*damaged"):
        CelebA(root=root).load(0)
