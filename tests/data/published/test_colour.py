"""SVHN and CIFAR-10 in their own file formats, made here and read by torchvision."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat
from torchvision import datasets

from flowvae import FlowvaeError
from flowvae.data import CIFAR10, SVHN

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (40, 3, 32, 32), dtype=np.uint8)
NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def md5(file: Path) -> str:
    return hashlib.md5(file.read_bytes()).hexdigest()


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()

    def write(name: str, held: object) -> list[str]:
        (folder / name).write_bytes(pickle.dumps(held))
        return [name, md5(folder / name)]

    batches = [
        write(f"data_batch_{i + 1}", {"data": PIXELS[10 * i :][:10].reshape(10, -1), "labels": [*range(10)]})
        for i in range(3)
    ]
    monkeypatch.setattr(datasets.CIFAR10, "train_list", batches)
    test = write("test_batch", {"data": PIXELS[30:].reshape(10, -1), "labels": [*range(10)]})
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [test])
    name, checksum = write("batches.meta", {"label_names": NAMES})
    monkeypatch.setattr(datasets.CIFAR10, "meta", {"filename": name, "key": "label_names", "md5": checksum})
    return tmp_path


@pytest.fixture
def svhn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As MATLAB has it: height, width, channel, number; the digit 0 is the label 10."""
    files = {}
    for split, x in (("train", PIXELS[:30]), ("test", PIXELS[30:])):
        labels = (np.arange(len(x)) % 10 + 1)[:, None].astype(np.uint8)
        file = tmp_path / f"{split}_32x32.mat"
        savemat(file, {"X": x.transpose(2, 3, 1, 0), "y": labels})
        files[split] = ["http://localhost", file.name, md5(file)]
    monkeypatch.setattr(datasets.SVHN, "split_list", files)
    return tmp_path


def test_cifar10(cifar: Path) -> None:
    data = CIFAR10(root=cifar, likelihood="binomial:255").load(0)
    assert data.shape == CIFAR10().shape == (3, 32, 32)
    parts = torch.cat([data.train, data.valid, data.test])  # type: ignore[arg-type]
    assert torch.equal(parts, torch.from_numpy(PIXELS).float())
    assert [len(x) for x in (data.train, data.valid, data.test)] == [27, 3, 10]
    assert data.labels is not None
    assert data.labels["valid"].tolist() == [7, 8, 9]
    assert data.classes == tuple(NAMES)


def test_svhn(svhn: Path) -> None:
    data = SVHN(root=svhn, likelihood="binomial:255").load(0)
    assert torch.equal(data.test, torch.from_numpy(PIXELS[30:]).float())  # type: ignore[arg-type]
    assert [len(x) for x in (data.train, data.valid, data.test)] == [27, 3, 10]
    assert data.labels is not None
    assert data.labels["test"].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    assert data.classes == tuple("0123456789")


def test_colour_images_in_grey(cifar: Path) -> None:
    data = CIFAR10(root=cifar, colour="grey", resize=16, values="unit").load(0)
    assert data.shape == (1, 16, 16)
    assert 0 <= data.train.min() <= data.train.max() <= 1  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", [CIFAR10, SVHN])
def test_missing_and_damaged_files_are_refused(kind: type[CIFAR10 | SVHN], svhn: Path, cifar: Path) -> None:
    name = {CIFAR10: "cifar-10-batches-py", SVHN: "train_32x32.mat"}[kind]
    with pytest.raises(FlowvaeError, match=rf"none'.*{name}.*--data\.download") as info:
        kind(root=svhn / "none").load(0)
    assert len(str(info.value).splitlines()) == 1
    file = svhn / name / "data_batch_2" if kind is CIFAR10 else svhn / name
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(FlowvaeError, match=f"{kind.family}.*damaged"):
        kind(root=svhn).load(0)
