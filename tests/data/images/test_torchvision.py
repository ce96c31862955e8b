"""Data sets of torchvision, by name: FashionMNIST and CIFAR10 in their own file formats, made here."""

from __future__ import annotations

import hashlib
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import datasets

from flowvae import Experiment
from flowvae.core.errors import FlowvaeError
from flowvae.data import Torchvision, as_data
from flowvae.data.images.torchvision import _known

RNG = np.random.default_rng(0)
TRAIN, TEST = (RNG.integers(0, 256, (n, 28, 28), dtype=np.uint8) for n in (40, 10))
LABELS = {"train": np.arange(40, dtype=np.uint8) % 10, "t10k": np.arange(10, dtype=np.uint8)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a small FashionMNIST in the idx format."""
    folder = tmp_path / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    for part, images in (("train", TRAIN), ("t10k", TEST)):
        header = struct.pack(">IIII", 0x803, *images.shape)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        labels = LABELS[part]
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, len(labels)) + labels.tobytes())
    return tmp_path


def test_fashion_mnist_has_its_test_split(root: Path) -> None:
    data = Torchvision("FashionMNIST", root).load(0)
    assert data.shape == (1, 28, 28)
    assert torch.equal(data.test, torch.from_numpy(TEST[:, None]).float())
    assert (len(data.train), len(data.valid)) == (34, 6)
    assert data.labels is not None
    assert data.labels["test"].tolist() == list(range(10))
    assert data.classes[9] == "Ankle boot"
    assert data.identity.name == "FashionMNIST"
    sizes = torch.cat([data.train, data.valid]).flatten(1)
    assert sorted(sizes.tolist()) == sorted(TRAIN.reshape(40, -1).astype(float).tolist())


def test_the_data_set_itself_gives_the_same(root: Path) -> None:
    own = {split: datasets.FashionMNIST(str(root), train=split == "train") for split in ("train", "test")}
    given = as_data(own, "binomial:255").load(0)
    named = Torchvision("FashionMNIST", root, workers=1).load(0)
    assert given.classes == named.classes
    assert given.identity.sha256 == Torchvision("FashionMNIST", root).load(0).identity.sha256
    assert torch.equal(named.test[torch.arange(10)], given.test)  # type: ignore[arg-type]


def test_colour_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    pixels = RNG.integers(0, 256, (12, 3, 32, 32), dtype=np.uint8)

    def write(name: str, content: object) -> tuple[str, str]:
        (folder / name).write_bytes(pickle.dumps(content))
        return name, hashlib.md5((folder / name).read_bytes()).hexdigest()

    batch = {"data": pixels.reshape(12, -1), "labels": [3] * 12}
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [write("data_batch_1", batch)])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [write("test_batch", batch)])
    name, checksum = write("batches.meta", {"label_names": list("abcdefghij")})
    monkeypatch.setattr(datasets.CIFAR10, "meta", {"filename": name, "key": "label_names", "md5": checksum})
    data = Torchvision("CIFAR10", tmp_path).load(0)
    assert torch.equal(data.test, torch.from_numpy(pixels).float())
    assert data.classes == tuple("abcdefghij")


def test_it_is_named_in_a_file(root: Path) -> None:
    experiment = Experiment(data=Torchvision("FashionMNIST", root))
    experiment.to_yaml(root / "e.yaml")
    assert Experiment.from_yaml(root / "e.yaml") == experiment


def test_nothing_is_downloaded_unless_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FlowvaeError, match=r"no files of MNIST.*--data.download"):
        Torchvision("MNIST", tmp_path).load(0)
    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", _no_network)
    with pytest.raises(FlowvaeError, match="no network"):
        Torchvision("MNIST", tmp_path, download=True).load(0)


def _no_network(*_: object, **__: object) -> None:
    raise OSError("no network")


def test_other_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FlowvaeError, match=r"'FashonMNIST'.*did you mean FashionMNIST"):
        Torchvision("FashonMNIST", tmp_path).load(0)
    with pytest.raises(FlowvaeError, match="name = 3"):
        Torchvision(3, tmp_path)  # type: ignore[arg-type]
    with pytest.raises(FlowvaeError, match="workers = -1"):
        Torchvision("MNIST", tmp_path, workers=-1)


def test_the_usual_data_sets_are_known() -> None:
    assert {"MNIST", "FashionMNIST", "KMNIST", "USPS", "CIFAR10", "CIFAR100", "SVHN", "STL10"} <= set(_known())
