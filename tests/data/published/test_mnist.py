"""MNIST and the sets in its format: flat folders, torchvision's folders, compressed files; and Debian's own files."""

from __future__ import annotations

import gzip
import hashlib
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import datasets

from flowvae import Experiment, FlowvaeError
from flowvae.core.registry import find
from flowvae.data import EMNIST, KMNIST, MNIST, DataSpec, FashionMNIST, to_tensor
from flowvae.experiments.serialization import from_plain, to_plain

RNG = np.random.default_rng(0)
IMAGES = {"train": RNG.integers(0, 256, (40, 28, 28), dtype=np.uint8)}
IMAGES["test"] = RNG.integers(0, 256, (10, 28, 28), dtype=np.uint8)
LABELS = {split: (np.arange(len(x)) % 10).astype(np.uint8) for split, x in IMAGES.items()}
DEBIAN = Path("/usr/share/datasets/fashion-mnist")


def content(array: np.ndarray) -> bytes:
    return struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write(folder: Path, packed: bool = False, names: Callable[[str], str] | None = None) -> None:
    """The four files of the small set."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, x in IMAGES.items():
        prefix = names(split) if names else {"train": "train", "test": "t10k"}[split]
        for name, array in (("images-idx3-ubyte", x), ("labels-idx1-ubyte", LABELS[split])):
            data = content(array)
            file = folder / (f"{prefix}-{name}" + (".gz" if packed else ""))
            file.write_bytes(gzip.compress(data) if packed else data)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The small files are accepted, and those of the system are not read."""
    for kind in (MNIST, FashionMNIST):
        monkeypatch.setattr(kind, "checksums", {})
        monkeypatch.setattr(kind, "also", "")
    monkeypatch.setattr(datasets.MNIST, "resources", [])
    monkeypatch.setattr(datasets.FashionMNIST, "resources", [])
    monkeypatch.setattr(datasets.KMNIST, "resources", [])


@pytest.mark.parametrize("kind", [MNIST, FashionMNIST, KMNIST])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("flat", [False, True])
def test_all_layouts_give_the_same(tmp_path: Path, kind: Any, packed: bool, flat: bool) -> None:
    write(tmp_path if flat else tmp_path / kind.named / "raw", packed)
    data = kind(root=tmp_path, likelihood="binomial:255").load(0)
    assert torch.equal(data.train, torch.from_numpy(IMAGES["train"][:30, None]).float())
    assert torch.equal(data.valid, torch.from_numpy(IMAGES["train"][30:, None]).float())
    assert torch.equal(data.test, torch.from_numpy(IMAGES["test"][:, None]).float())
    assert data.labels is not None
    assert data.labels["valid"].tolist() == list(range(10))
    assert data.shape == kind().shape == (1, 28, 28)
    assert len(data.classes) == 10
    assert data.name == kind.family
    assert "the last 10 of train" in data.split


def test_no_image_depends_on_the_seed(tmp_path: Path) -> None:
    write(tmp_path)
    for values in ("fixed", "dynamic", "dequantized"):
        spec = MNIST(root=tmp_path, values=values)
        assert spec.load(0).identity == spec.load(1).identity


def test_protocols_have_identities_of_their_own(tmp_path: Path) -> None:
    write(tmp_path)
    settings: list[dict[str, Any]] = [{"values": v} for v in ("grey", "threshold", "fixed", "dynamic", "unit")]
    settings += [{"values": "dequantized"}, {"levels": 16}, {"resize": 14}, {"crop": 20}, {"colour": "rgb"}]
    settings += [{"values": "dynamic", "flips": True}, {"flips": True}]
    found = [MNIST(root=tmp_path, **how).load(0).identity for how in settings]
    assert len({one.sha256 for one in found}) == len({one.preprocessing for one in found}) == len(settings)


def test_valid_and_test_images_are_drawn_once_and_training_images_anew(tmp_path: Path) -> None:
    write(tmp_path)
    data = MNIST(root=tmp_path, values="dynamic").load(0)
    assert isinstance(data.valid, torch.Tensor)
    assert not isinstance(data.train, torch.Tensor)
    fixed = MNIST(root=tmp_path, values="fixed").load(0)
    assert isinstance(fixed.train, torch.Tensor)
    for x in (data.valid, data.test, to_tensor(data.train, ""), fixed.train):
        assert ((x == 0) | (x == 1)).all()
    assert not data.dequantized
    assert MNIST(root=tmp_path, values="dequantized").load(0).dequantized


def test_large_sets_stay_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path)
    small = MNIST(root=tmp_path).load(0)
    monkeypatch.setattr("flowvae.data.images.image_data.LARGE", 1000)
    large = MNIST(root=tmp_path).load(0)
    assert large.train.intensities.dtype == torch.uint8  # type: ignore[union-attr]
    assert large.identity == small.identity


def test_emnist_is_upright_and_its_labels_begin_at_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LABELS, "train", (np.arange(40) % 26 + 1).astype(np.uint8))
    monkeypatch.setitem(LABELS, "test", (np.arange(10) % 26 + 1).astype(np.uint8))
    write(tmp_path / "EMNIST" / "raw", names=lambda split: f"emnist-letters-{split}")
    data = EMNIST(root=tmp_path).load(0)
    assert torch.equal(data.test[:, 0], torch.from_numpy(IMAGES["test"]).mT.float())  # type: ignore[index]
    assert data.classes == tuple("abcdefghijklmnopqrstuvwxyz")
    assert data.labels is not None
    assert data.labels["test"].tolist() == list(range(10))
    assert len(EMNIST(subset="balanced").class_names) == 47
    with pytest.raises(FlowvaeError, match=r"emnist-digits-train-images.*EMNIST/raw"):
        EMNIST(root=tmp_path, subset="digits").load(0)
    with pytest.raises(FlowvaeError, match=r"'letter'.*letters"):
        EMNIST(subset="letter")


def test_missing_files_are_named_with_what_downloads_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        FlowvaeError, match=r"train-images-idx3-ubyte.*t10k-labels-idx1-ubyte.*--data\.download"
    ) as info:
        MNIST(root=tmp_path).load(0)
    assert len(str(info.value).splitlines()) == 1
    (tmp_path / "file").touch()
    with pytest.raises(FlowvaeError, match="not a folder"):
        MNIST(root=tmp_path / "file")

    def no_network(*_: object, **__: object) -> None:
        print("Downloading")
        raise OSError("no network")

    monkeypatch.setattr(datasets.MNIST, "resources", [("train-images-idx3-ubyte.gz", "0" * 32)])
    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", no_network)
    with pytest.raises(FlowvaeError, match="no network"):
        MNIST(root=tmp_path, download=True).load(0)


def test_torchvision_downloads_into_the_folder_that_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unpack(url: str, download_root: str, filename: str, md5: str) -> None:
        write(Path(download_root))

    monkeypatch.setattr(datasets.MNIST, "resources", [("train-images-idx3-ubyte.gz", "0" * 32)])
    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", unpack)
    assert len(MNIST(root=tmp_path, download=True).load(0).test) == 10


def test_other_content_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path)
    good = hashlib.md5(content(IMAGES["train"])).hexdigest()
    monkeypatch.setattr(MNIST, "checksums", {"train-images-idx3-ubyte": good})
    MNIST(root=tmp_path).load(0)
    changed = IMAGES["train"].copy()
    changed[3, 3, 3] ^= 1
    (tmp_path / "train-images-idx3-ubyte").write_bytes(content(changed))
    with pytest.raises(FlowvaeError, match=r"train-images-idx3-ubyte.*checksum"):
        MNIST(root=tmp_path).load(0)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(content(LABELS["test"]))
    with pytest.raises(FlowvaeError, match=r"\(40, 28, 28\) with 10 labels"):
        FashionMNIST(root=tmp_path).load(0)


def test_a_compressed_file_has_torchvisions_checksum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, packed=True)
    name = "train-images-idx3-ubyte.gz"
    monkeypatch.setattr(datasets.KMNIST, "resources", [(name, hashlib.md5((tmp_path / name).read_bytes()).hexdigest())])
    KMNIST(root=tmp_path).load(0)
    monkeypatch.setattr(datasets.KMNIST, "resources", [(name, "0" * 32)])
    with pytest.raises(FlowvaeError, match=rf"{name}.*checksum"):
        KMNIST(root=tmp_path).load(0)


def test_the_folder_of_data_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWVAE_DATA", str(tmp_path / "own"))
    assert MNIST().root == tmp_path / "own"
    monkeypatch.delenv("FLOWVAE_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert MNIST().root == tmp_path / "flowvae" / "data"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert MNIST().root == Path.home() / ".cache" / "flowvae" / "data"


@pytest.mark.parametrize(
    "name",
    ["mnist", "fashion-mnist", "kmnist", "emnist", "svhn", "cifar10", "celeba", "omniglot", "frey-faces"],
)
def test_they_go_by_a_name_with_their_settings(name: str, tmp_path: Path) -> None:
    kind = find("data", name).type
    spec: DataSpec = kind(root=tmp_path, values="dequantized", levels=32, resize=(20, 24), flips=True)
    assert from_plain("data", to_plain(spec)) == spec
    assert Experiment.from_dict(Experiment(data=spec).to_dict()).data == spec
    assert spec.shape[1:] == (20, 24)
    assert spec.title
    moved = kind(root=tmp_path / "elsewhere", values="dequantized", levels=32, resize=(20, 24), flips=True)
    assert spec.given(moved) == moved
    with pytest.raises(FlowvaeError, match="not those of the training"):
        spec.given(kind(root=tmp_path, values="grey"))


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_the_real_files_of_debian(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # with the true checksums
    data = FashionMNIST(root=DEBIAN, likelihood="binomial:255").load(0)
    assert [len(data.train), len(data.valid), len(data.test)] == [50_000, 10_000, 10_000]
    assert data.labels is not None
    assert data.classes[int(data.labels["test"][0])] == "Ankle boot"
    counts = torch.cat([data.labels["train"], data.labels["valid"]]).bincount()
    assert counts.tolist() == [6000] * 10
    assert data.train.mean().item() == pytest.approx(72.94, abs=0.3)  # type: ignore[union-attr]
