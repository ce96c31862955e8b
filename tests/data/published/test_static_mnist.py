"""Fixed-binarized MNIST from a user's file: its bits, its protocol, and what is said of a wrong file."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from flowvae import Experiment, FlowvaeError
from flowvae.data import StaticMNIST
from flowvae.data.published import static_mnist as module
from flowvae.experiments.serialization import from_plain, to_plain

FILE = Path(
    os.environ.get("FLOWVAE_STATIC_MNIST")
    or Path(__file__).parents[4] / "shared" / "data" / "static_mnist_train_valid.npz"
)


def write(path: Path, *names: str) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    bits = {name: generator.integers(0, 2, (4 + i, 784), dtype=np.uint8) for i, name in enumerate(names)}
    np.savez(path, **{name: np.packbits(value, axis=1) for name, value in bits.items()})
    return bits


def test_bits_come_back(tmp_path: Path) -> None:
    bits = write(tmp_path / "x.npz", "train", "valid", "test")
    data = StaticMNIST(tmp_path / "x.npz").load(0)
    for name, value in bits.items():
        assert torch.equal(getattr(data, name), torch.from_numpy(value).float().reshape(-1, 1, 28, 28))
    assert data.shape == StaticMNIST().shape == (1, 28, 28)
    assert "tuned" not in data.identity.split


def test_unpacked_bits_are_the_same(tmp_path: Path) -> None:
    bits = write(tmp_path / "x.npz", "train", "valid", "test")
    np.savez(tmp_path / "y.npz", **bits)
    np.savez(tmp_path / "z.npz", **{name: value.reshape(-1, 28, 28).astype(float) for name, value in bits.items()})
    found = {StaticMNIST(tmp_path / f"{name}.npz").load(0).identity for name in "xyz"}
    assert len(found) == 1


def amat(bits: np.ndarray) -> bytes:
    """Lines of digits with blanks between them, as Larochelle's files have them."""
    return "".join(" ".join(map(str, row)) + "\n" for row in bits).encode()


def test_larochelles_text_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bits = write(tmp_path / "x.npz", "train", "valid", "test")
    for split, value in bits.items():
        (tmp_path / f"binarized_mnist_{split}.amat").write_bytes(amat(value))
        monkeypatch.setitem(module.CHECKSUMS, split, hashlib.sha256(amat(value)).hexdigest())
    identity = StaticMNIST(tmp_path).load(0).identity
    assert identity == StaticMNIST(tmp_path / "x.npz").load(0).identity
    assert "Larochelle" in identity.preprocessing
    changed = bits["valid"].copy()
    changed[0, 0] ^= 1
    (tmp_path / "binarized_mnist_valid.amat").write_bytes(amat(changed))
    with pytest.raises(FlowvaeError, match=r"binarized_mnist_valid\.amat.*checksum"):
        StaticMNIST(tmp_path).load(0)
    (tmp_path / "binarized_mnist_valid.amat").unlink()
    with pytest.raises(FlowvaeError, match=r"binarized_mnist_valid\.amat: no such file.*--data\.download"):
        StaticMNIST(tmp_path).load(0)


def test_other_bits_are_not_called_the_published_ones(tmp_path: Path) -> None:
    """The row of a recipe says "not comparable" then."""
    write(tmp_path / "x.npz", "train", "valid", "test")
    identity = StaticMNIST(tmp_path / "x.npz").load(0).identity
    assert "not the published" in identity.preprocessing
    assert "Larochelle" not in identity.preprocessing + identity.split


def test_text_files_are_downloaded_where_they_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bits = write(tmp_path / "x.npz", "train", "valid", "test")

    def download(address: str, folder: Path, name: str) -> None:
        Path(folder).mkdir(exist_ok=True)
        split = name.removeprefix("binarized_mnist_").removesuffix(".amat")
        (Path(folder) / name).write_bytes(amat(bits[split]))

    for split, value in bits.items():
        monkeypatch.setitem(module.CHECKSUMS, split, hashlib.sha256(amat(value)).hexdigest())
    monkeypatch.setattr("torchvision.datasets.utils.download_url", download)
    assert len(StaticMNIST(tmp_path / "new", download=True).load(0).test) == len(bits["test"])
    with pytest.raises(FlowvaeError, match=r"x\.npz.*folder"):
        StaticMNIST(tmp_path / "x.npz", download=True).load(0)


def test_without_a_test_split_the_figures_say_so(tmp_path: Path) -> None:
    bits = write(tmp_path / "x.npz", "train", "valid")
    data = StaticMNIST(tmp_path / "x.npz").load(0)
    assert torch.equal(data.test.flatten(1), torch.from_numpy(bits["valid"]).float())
    assert "valid used as test too" in data.identity.split


def test_it_goes_by_a_name() -> None:
    spec = StaticMNIST(Path("mine.npz"))
    assert from_plain("data", to_plain(spec)) == spec
    assert Experiment.from_dict(Experiment(data=spec).to_dict()).data == spec


def test_wrong_files_are_named_with_a_remedy(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    with pytest.raises(FlowvaeError, match=r"no such file.*static_mnist_train_valid\.npz"):
        StaticMNIST(path).load(0)
    path.write_text("bits")
    with pytest.raises(FlowvaeError, match=r"not a readable \.npz"):
        StaticMNIST(path).load(0)
    write(path, "train")
    with pytest.raises(FlowvaeError, match="no array 'valid'"):
        StaticMNIST(path).load(0)
    for wrong in (np.zeros((3, 783), np.uint8), np.full((3, 784), 2, np.uint8), np.full((3, 98), 0.5)):
        np.savez(path, train=wrong, valid=np.zeros((3, 98), np.uint8))
        with pytest.raises(FlowvaeError, match=rf"train: shape \(3, {wrong.shape[1]}\).*\(N, 98\).*\(N, 784\)"):
            StaticMNIST(path).load(0)


@pytest.mark.skipif(not FILE.is_file(), reason="static MNIST missing: set FLOWVAE_STATIC_MNIST to its file")
def test_the_real_file() -> None:
    data = StaticMNIST(FILE).load(0)
    assert (len(data.train), len(data.valid)) == (50_000, 10_000)
    assert data.identity.preprocessing == "binarized once, fixed (Larochelle)"
    assert 0.12 < data.train.mean() < 0.14  # share of ink in MNIST
    # images, not rows of noise: neighbouring pixels agree
    image = data.train.reshape(-1, 28, 28)
    assert (image[:, :, 1:] == image[:, :, :-1]).float().mean() > 0.9
