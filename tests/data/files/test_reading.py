"""Array files that are damaged, hostile or of another kind: a valid data set, or one line that says what is wrong."""

from __future__ import annotations

import io
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_dtypes, array_shapes, arrays, scalar_dtypes

from flowvae.core.errors import FlowvaeError
from flowvae.data import Arrays, Dataset, StaticMNIST, load_reference
from flowvae.data.files.reading import read_arrays

FUZZ = settings(
    max_examples=80,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def packed(compressed: bool = True, **parts: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **parts)  # type: ignore[arg-type]
    return buffer.getvalue()


def real(rows: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, 3))


WHOLE = {"train": real(40, 0), "valid": real(7, 1), "test": real(9, 2), "labels": np.arange(40)}
ARCHIVES = (packed(**WHOLE), packed(False, **WHOLE))


def outcome(path: Path, content: bytes, likelihood: str = "gaussian") -> Dataset | None:
    """The data set, or None where it is refused in one short line; anything else fails the test."""
    path.write_bytes(content)
    try:
        data = Arrays(path, likelihood).load(0)  # type: ignore[arg-type]
    except FlowvaeError as error:
        said = str(error)
    else:
        assert data.identity.sha256
        return data
    assert len(said) < 1000
    assert len(said.splitlines()) == 1
    return None


@FUZZ
@given(archive=st.sampled_from(ARCHIVES), places=st.lists(st.integers(0, 10**6), min_size=1, max_size=3, unique=True))
@example(archive=ARCHIVES[1], places=[19999])  # hides a member
def test_flipped_bits_never_change_the_data(tmp_path: Path, archive: bytes, places: list[int]) -> None:
    damaged = bytearray(archive)
    for place in places:
        damaged[place // 8 % len(damaged)] ^= 1 << place % 8
    data = outcome(tmp_path / "x.npz", bytes(damaged))
    if data is not None:  # a bit that nobody reads, such as one of a date
        for split in ("train", "valid", "test"):
            assert torch.equal(getattr(data, split), torch.tensor(WHOLE[split], dtype=torch.float32))


@FUZZ
@given(
    version=st.sampled_from([1, 1, 1, 2, 3, 9]),
    shape=st.one_of(
        st.tuples(st.integers(-3, 2**70), st.integers(-3, 6)).map(str),
        st.sampled_from(["()", "(4,)", "(3, 4", "3", "(2.0, 4)", "(True, 4)", "(0, 10**9)", "(4, 3)", "(10**18, 0)"]),
    ),
    descr=st.one_of(array_dtypes().map(lambda dtype: repr(dtype.str)), st.sampled_from(["'|O'", "'zz'", "3", "'<f8'"])),
    body=st.one_of(st.binary(max_size=100), st.just(bytes(96))),
)
def test_no_header_is_believed(tmp_path: Path, version: int, shape: str, descr: str, body: bytes) -> None:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    length = struct.pack("<H" if version == 1 else "<I", len(header))
    outcome(tmp_path / "x.npy", b"\x93NUMPY" + bytes([version, 0]) + length + header + body)


@FUZZ
@given(
    train=scalar_dtypes().flatmap(lambda dtype: arrays(dtype, array_shapes(min_dims=0, max_dims=5, max_side=12))),
    labels=st.none() | scalar_dtypes().flatmap(lambda dtype: arrays(dtype, array_shapes(min_dims=0, max_dims=2))),
    likelihood=st.sampled_from(["gaussian", "gaussian:0.1", "bernoulli", "binomial:4", "categorical:3", "poisson"]),
)
def test_any_type_and_shape(tmp_path: Path, train: np.ndarray, labels: np.ndarray | None, likelihood: str) -> None:
    parts = {"train": train} if labels is None else {"train": train, "labels": labels}
    data = outcome(tmp_path / "x.npz", packed(**parts), likelihood)
    if data is not None:
        assert data.shape == (train[:, None] if train.ndim == 3 else train).shape[1:]
        likelihood_of = data.likelihood.build(data.shape, data.likelihood.units(data.train))
        given = likelihood_of(torch.zeros(data.likelihood.parameter_shape(data.shape)))
        assert given.log_prob(data.test).isfinite().all()


def archive_of(path: Path, content: bytes, **how: int) -> None:
    with zipfile.ZipFile(path, "w", **how) as archive:  # type: ignore[call-overload]
        archive.writestr("train.npy", content)


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def with_field(local: int, central: int, value: int) -> bytes:
    """An archive with one number of its first member changed in both of its directories."""
    data = bytearray(packed(False, train=WHOLE["train"]))
    data[data.find(b"PK\x03\x04") + local] = data[data.find(b"PK\x01\x02") + central] = value
    return bytes(data)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"PK", "damaged"),
        (b"\x93N", "damaged"),
        (with_field(6, 8, 1), "encrypted"),
        (with_field(8, 10, 99), "damaged"),
        (npy(np.array([{"a": 1}], dtype=object)), "Python objects"),
        (npy(WHOLE["train"])[:-8], "not its size"),
        (npy(WHOLE["train"]) + npy(WHOLE["valid"]), "not its size"),
        (npy(np.array(3.0)), r"shape \(\)"),
        (npy(np.empty((30, 0))), "empty"),
    ],
)
def test_what_is_wrong_with_a_file(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(FlowvaeError, match=said):
        Arrays(tmp_path / "x.npz", "gaussian").load(0)  # type: ignore[arg-type]


def test_a_member_that_is_no_array_or_is_there_twice(tmp_path: Path) -> None:
    archive_of(tmp_path / "x.npz", b"no array at all")
    with pytest.raises(FlowvaeError, match="damaged"):
        Arrays(tmp_path / "x.npz", "gaussian").load(0)  # type: ignore[arg-type]
    with zipfile.ZipFile(tmp_path / "y.npz", "w") as archive:
        archive.writestr("train.npy", npy(WHOLE["train"]))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("train.npy", npy(WHOLE["valid"]))
    with pytest.raises(FlowvaeError, match="'train' is there twice"):
        Arrays(tmp_path / "y.npz", "gaussian").load(0)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_read(tmp_path: Path, method: int) -> None:
    archive_of(tmp_path / "x.npz", npy(WHOLE["train"]), compression=method)
    assert np.array_equal(read_arrays("x", tmp_path / "x.npz", "")["train"], WHOLE["train"])


def test_an_array_larger_than_memory_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowvae.core.memory.memory", lambda: 1e8)
    rows = 200_000_000
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({rows}, 1), }}\n".encode()
    with (tmp_path / "x.npy").open("wb") as file:
        file.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
        file.truncate(file.tell() + rows)  # sparse: it takes no disk
    with pytest.raises(FlowvaeError, match="200 MB"):
        Arrays(tmp_path / "x.npy", "bernoulli").load(0)  # type: ignore[arg-type]


def test_places_that_are_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    Path("loop").symlink_to("loop")
    Path("gone").symlink_to("nowhere")
    Path("file").touch()
    said = {
        ".": "is a directory",
        "pipe": "a pipe",
        "/dev/zero": "a device",
        "loop": "symbolic links",
        "gone": "a link to a file that does not exist",
        "file/x": "Not a directory",
        "x" * 300: "name too long",
        "nowhere": "no such file",
    }
    for place, text in said.items():
        for spec in (Arrays(place, "gaussian"), StaticMNIST(place)):  # type: ignore[arg-type]
            if place == "." and isinstance(spec, StaticMNIST):  # which may be a folder
                continue
            with pytest.raises(FlowvaeError, match=text):
                spec.load(0)


@pytest.mark.parametrize("path", [b"ab", 3, None, "a\0b", "~no-such-user/x.npz", os.fsdecode(b"caf\xe9.npz")])
def test_paths_that_cannot_be_are_refused_at_once(path: object) -> None:
    for make in (lambda: Arrays(path, "gaussian"), lambda: StaticMNIST(path)):  # type: ignore[arg-type]
        with pytest.raises(FlowvaeError, match=r"data\.path = "):
            make()


def test_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x.npz").write_bytes(ARCHIVES[0])
    spec = Arrays("~/x.npz", "gaussian")  # type: ignore[arg-type]
    assert spec.path == tmp_path / "x.npz"
    assert len(spec.load(0).train) == 40
    assert StaticMNIST("~/x.npz").path == tmp_path / "x.npz"  # type: ignore[arg-type]
    with pytest.raises(FlowvaeError, match=str(tmp_path)):
        load_reference("~", "garch-garch11")


def test_labels_of_each_split(tmp_path: Path) -> None:
    parts = {split: WHOLE[split] for split in ("train", "valid")}
    marks = {"labels_train": np.arange(40), "labels_valid": np.arange(7) + 100}
    np.savez(tmp_path / "x.npz", **parts, **marks)  # type: ignore[arg-type]
    data = Arrays(tmp_path / "x.npz", "gaussian").load(0)  # type: ignore[arg-type]
    assert data.labels is not None
    assert data.labels["valid"].tolist() == list(range(100, 107))
    for split in ("train", "test"):  # test is drawn from train, with its labels
        labels = data.labels[split].tolist()
        assert torch.equal(getattr(data, split), torch.tensor(WHOLE["train"][labels], dtype=torch.float32))
    assert sorted(data.labels["train"].tolist() + data.labels["test"].tolist()) == list(range(40))


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (np.arange(40, dtype=">i4"), torch.arange(40)),
        (np.arange(40, dtype="u2"), torch.arange(40)),
        (np.arange(40) % 2 == 0, (torch.arange(40) % 2 == 0).long()),
        (np.arange(40) + 2**24 + 1, torch.arange(40) + 2**24 + 1),
        (np.arange(40, dtype=">f4") / 4, torch.arange(40, dtype=torch.float64) / 4),
        (np.arange(40, dtype="g"), torch.arange(40, dtype=torch.float64)),
    ],
    ids=["big-endian", "uint16", "bool", "above 2**24", "float", "long double"],
)
def test_labels_keep_their_values(tmp_path: Path, labels: np.ndarray, expected: torch.Tensor) -> None:
    np.savez(tmp_path / "x.npz", **{**WHOLE, "labels": labels})  # type: ignore[arg-type]
    data = Arrays(tmp_path / "x.npz", "gaussian").load(0)  # type: ignore[arg-type]
    assert data.labels is not None
    assert torch.equal(data.labels["train"], expected)
    assert data.labels["train"].dtype == expected.dtype


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"labels_test": np.arange(9), "train": WHOLE["train"]}, "labels_test and no test"),
        ({**WHOLE, "labels_train": np.arange(40)}, "'labels' and 'labels_train'"),
        ({**WHOLE, "labels_test": np.arange(8)}, r"labels of test: shape \(8,\).*\(9,\)"),
        ({**WHOLE, "labels_valid": np.zeros((7, 1))}, r"labels of valid: shape \(7, 1\)"),
        ({**WHOLE, "labels": np.full(40, 2**63, dtype="u8")}, "9223372036854775808 at row 0"),
        ({**WHOLE, "labels": np.full(40, np.nan)}, "nan at row 0"),
        ({**WHOLE, "labels": np.full(40, 1j)}, "complex128"),
        ({**WHOLE, "label": np.arange(40)}, "did you mean labels"),
    ],
)
def test_wrong_labels_are_refused(tmp_path: Path, parts: dict[str, np.ndarray], said: str) -> None:
    np.savez(tmp_path / "x.npz", **parts)  # type: ignore[arg-type]
    with pytest.raises(FlowvaeError, match=said):
        Arrays(tmp_path / "x.npz", "gaussian").load(0)  # type: ignore[arg-type]
