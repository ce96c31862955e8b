"""A `.npy` larger than memory: the same values as in memory, and memory that does not grow with the file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from flowvae import MLP, Experiment, Training
from flowvae.core.errors import FlowvaeError
from flowvae.data import Mapped, as_data
from flowvae.data.dataset import SPLITS

RNG = np.random.default_rng(0)


def test_a_mapped_table_is_the_table_in_memory(tmp_path: Path) -> None:
    """Offsets, units, checks, checksum and training: all as if the array were in memory."""
    x = np.concatenate([1.7e9 + 3 * RNG.standard_normal((200, 2)), RNG.standard_normal((200, 2))], 1)
    names = ("train", "valid", "test")
    splits = dict(zip(names, np.split(x, [100, 150]), strict=True))
    files = {name: tmp_path / f"{name}.npy" for name in names}
    for name, path in files.items():
        np.save(path, splits[name])
    np.save(tmp_path / "labels.npy", np.array(["a", "b"] * 50))
    spec = Mapped(files["train"], "gaussian", files["valid"], files["test"], tmp_path / "labels.npy")  # type: ignore[arg-type]
    data, memory = spec.load(0), as_data(splits, "gaussian").load(0)
    assert data.identity.sha256 == memory.identity.sha256
    assert data.offset is not None
    assert memory.offset is not None
    assert torch.equal(data.offset, memory.offset)
    assert data.offset[:2].min() > 1.6e9
    assert data.classes == ("a", "b")
    for one, other in zip(data.likelihood.units(data.train), memory.likelihood.units(memory.train), strict=True):
        torch.testing.assert_close(one, other)
    settings = {"latent": 2, "encoder": MLP((8,)), "decoder": MLP((8,)), "inference": Training(epochs=2, device="cpu")}
    runs = [Experiment(data=one, **settings).run(progress=False) for one in (spec, as_data(splits, "gaussian"))]  # type: ignore[arg-type]
    codes = [run.encode(splits["test"]) for run in runs]
    np.testing.assert_allclose(*codes, rtol=1e-3, atol=1e-3)  # units are sums in another order
    assert runs[0].log_prob(x[:3], draws=10).shape == (3,)


def test_missing_splits_are_drawn_in_the_order_of_the_file(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(120.0).reshape(60, 2))
    data = Mapped(tmp_path / "x.npy", "gaussian").load(0)  # type: ignore[arg-type]
    found = [getattr(data, split)[torch.arange(len(getattr(data, split)))][:, 0].tolist() for split in SPLITS]
    assert sorted(found[0] + found[1] + found[2]) == list(range(0, 120, 2))
    assert all(part == sorted(part) for part in found)
    assert [len(part) for part in found] == [42, 9, 9]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"no array", "damaged"),
        (np.zeros((4, 5)), r"row 0, column 3 .*finite|value nan at row 2, column 3"),
        (np.array([{"a": 1}], dtype=object), "objects"),
        (np.zeros(4), r"\(4,\)"),
        (np.zeros((4, 8, 8, 3)), r"\(0, 3, 1, 2\)"),
        (np.zeros((4, 5), complex), "complex"),
    ],
    ids=["empty", "text", "nan", "objects", "axes", "channels", "complex"],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes | np.ndarray, message: str) -> None:
    path = tmp_path / "x.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        if content.shape == (4, 5) and content.dtype == float:
            content[2, 3] = np.nan
        np.save(path, content)
    with pytest.raises(FlowvaeError, match=message):
        Mapped(path, "bernoulli").load(0)  # type: ignore[arg-type]
    with pytest.raises(FlowvaeError, match="no such file"):
        Mapped(tmp_path / "other.npy", "bernoulli").load(0)  # type: ignore[arg-type]


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((100, 10)))
    data = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "x.npy").write_bytes(data[:-8])
    with pytest.raises(FlowvaeError, match="damaged"):
        Mapped(tmp_path / "x.npy", "bernoulli").load(0)  # type: ignore[arg-type]
    np.savez(tmp_path / "x.npz", train=np.zeros((10, 2)))
    with pytest.raises(FlowvaeError, match="data:arrays"):
        Mapped(tmp_path / "x.npz", "bernoulli").load(0)  # type: ignore[arg-type]


def test_memory_does_not_grow_with_the_file() -> None:
    """Checked, identified, trained and validated: of a file eight times as large, the same peak."""
    script = Path(__file__).parents[3] / "benchmarks" / "mapped_memory.py"
    command = [sys.executable, str(script), "--megabytes", "16", "128"]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    small, large = (float(line.split()[3]) for line in run.stdout.splitlines()[1:])
    assert abs(large - small) < 150  # MB; kept as float32, the files would be 64 and 512 MB
