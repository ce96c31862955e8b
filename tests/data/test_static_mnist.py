"""Fixed-binarized MNIST from a user's file: its bits, its protocol, and what is said of a wrong file."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from flowvae import Experiment, FlowvaeError
from flowvae.data import StaticMNIST
from flowvae.experiments.serialization import from_plain, to_plain

FILE = Path(
    os.environ.get("FLOWVAE_STATIC_MNIST")
    or Path(__file__).parents[3] / "shared" / "data" / "static_mnist_train_valid.npz"
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
    with pytest.raises(FlowvaeError, match=r"no such file.*put static_mnist_train_valid\.npz there"):
        StaticMNIST(path).load(0)
    path.write_text("bits")
    with pytest.raises(FlowvaeError, match=r"not a readable \.npz"):
        StaticMNIST(path).load(0)
    write(path, "train")
    with pytest.raises(FlowvaeError, match="no array 'valid'"):
        StaticMNIST(path).load(0)
    np.savez(path, train=np.zeros((3, 784), np.uint8), valid=np.zeros((3, 98), np.uint8))
    with pytest.raises(FlowvaeError, match=r"train: shape \(3, 784\).*must be \(N, 98\)"):
        StaticMNIST(path).load(0)


@pytest.mark.skipif(not FILE.is_file(), reason="static MNIST missing: set FLOWVAE_STATIC_MNIST to its file")
def test_the_real_file() -> None:
    data = StaticMNIST(FILE).load(0)
    assert (len(data.train), len(data.valid)) == (50_000, 10_000)
    assert 0.12 < data.train.mean() < 0.14  # share of ink in MNIST
    # images, not rows of noise: neighbouring pixels agree
    image = data.train.reshape(-1, 28, 28)
    assert (image[:, :, 1:] == image[:, :, :-1]).float().mean() > 0.9
