"""Caltech-101 silhouettes and Frey faces in MATLAB files, made here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.io import savemat

from flowvae import FlowvaeError
from flowvae.data import CaltechSilhouettes, FreyFaces
from flowvae.experiments.serialization import from_plain, to_plain

RNG = np.random.default_rng(0)
SIZES = {"train": 12, "val": 5, "test": 6}
OBJECTS = {name: RNG.integers(0, 2, (count, 28, 28), dtype=np.uint8) for name, count in SIZES.items()}
FACES = RNG.integers(0, 256, (1965, 28, 20), dtype=np.uint8)


def write_caltech(folder: Path, **more: Any) -> None:
    """Rows are images, pixel by pixel down their columns; the background is 1."""
    arrays: dict[str, Any] = {"classnames": np.array([["anchor", "ant", "barrel"]], dtype=object)}
    for name, x in OBJECTS.items():
        arrays[f"{name}_data"] = (1 - x).transpose(0, 2, 1).reshape(len(x), -1)
        arrays[f"{name}_labels"] = (np.arange(len(x)) % 3 + 1)[:, None].astype(np.uint8)
    savemat(folder / CaltechSilhouettes.file, {**arrays, **more})


def test_silhouettes_are_upright_with_objects_of_one(tmp_path: Path) -> None:
    write_caltech(tmp_path)
    data = CaltechSilhouettes(root=tmp_path).load(0)
    for split, name in (("train", "train"), ("valid", "val"), ("test", "test")):
        assert torch.equal(getattr(data, split)[:, 0], torch.from_numpy(OBJECTS[name]).float())
    assert data.labels is not None
    assert data.labels["valid"].tolist() == [0, 1, 2, 0, 1]
    assert data.classes == ("anchor", "ant", "barrel")
    assert data.shape == CaltechSilhouettes().shape
    spec = CaltechSilhouettes(root=tmp_path)
    assert from_plain("data", to_plain(spec)) == spec


def test_frey_faces_have_one_split(tmp_path: Path) -> None:
    savemat(tmp_path / FreyFaces.file, {"ff": FACES.reshape(1965, -1).T})
    data = FreyFaces(root=tmp_path, likelihood="binomial:255").load(0)
    assert data.shape == FreyFaces().shape == (1, 28, 20)
    assert [len(x) for x in (data.train, data.valid, data.test)] == [1565, 200, 200]
    found = torch.cat([data.train, data.valid, data.test])[:, 0].numpy().astype(np.uint8)  # type: ignore[arg-type]
    assert sorted(x.tobytes() for x in found) == sorted(x.tobytes() for x in FACES)
    assert FreyFaces(root=tmp_path, likelihood="binomial:255").load(1).identity == data.identity


def test_missing_damaged_and_other_files_are_refused(tmp_path: Path) -> None:
    for kind in (CaltechSilhouettes, FreyFaces):
        with pytest.raises(FlowvaeError, match=rf"{kind.file}: no such file.*{kind.address}"):
            kind(root=tmp_path).load(0)
        (tmp_path / kind.file).write_bytes(b"not of MATLAB")
        with pytest.raises(FlowvaeError, match=rf"{kind.file}: is damaged"):
            kind(root=tmp_path).load(0)
    write_caltech(tmp_path, val_data=np.zeros((5, 256)))
    with pytest.raises(FlowvaeError, match=r"'val_data'.*\(5, 256\).*N × 784"):
        CaltechSilhouettes(root=tmp_path).load(0)
    savemat(tmp_path / FreyFaces.file, {"faces": FACES.reshape(1965, -1).T})
    with pytest.raises(FlowvaeError, match="no array 'ff'"):
        FreyFaces(root=tmp_path).load(0)


def test_what_is_downloaded_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(address: str, folder: Path, name: str, checksum: str) -> None:
        asked.append((address, checksum))
        raise RuntimeError("File not found or corrupted.")

    monkeypatch.setattr("torchvision.datasets.utils.download_url", download)
    with pytest.raises(FlowvaeError, match=rf"corrupted.*{FreyFaces.file}"):
        FreyFaces(root=tmp_path, download=True).load(0)
    assert asked == [(FreyFaces.address, FreyFaces.checksum)]
