"""Data from NumPy files: what is read, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from flowvae.core.errors import FlowvaeError
from flowvae.data import Arrays
from flowvae.models import BernoulliLikelihood, BinomialLikelihood, GaussianLikelihood


def save(path: Path, **arrays: object) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def test_arrays_are_read_as_they_are(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    parts = {name: generator.integers(0, 2, (n, 4, 5)) for name, n in (("train", 9), ("valid", 3), ("test", 2))}
    data = Arrays(save(tmp_path / "mine.npz", **parts), BernoulliLikelihood()).load(0)
    for name, value in parts.items():
        assert torch.equal(getattr(data, name), torch.tensor(value[:, None]).float())
    assert data.shape == (1, 4, 5)
    assert data.identity.split.startswith("as in the file")


def test_missing_splits_are_drawn_from_train_with_their_labels(tmp_path: Path) -> None:
    x = np.arange(40.0).reshape(20, 2)
    path = save(tmp_path / "mine.npz", train=x, labels=np.arange(20))
    data = Arrays(path, GaussianLikelihood()).load(3)
    assert sorted(torch.cat((data.train, data.valid, data.test))[:, 0].tolist()) == x[:, 0].tolist()
    assert (len(data.train), len(data.valid), len(data.test)) == (14, 3, 3)
    assert data.labels is not None
    for name in ("train", "valid", "test"):
        assert torch.equal(getattr(data, name)[:, 0], 2 * data.labels[name].float())
    np.save(tmp_path / "mine.npy", x)
    assert Arrays(tmp_path / "mine.npy", GaussianLikelihood()).load(3).features == 2


def wrong_files() -> list[object]:
    good = np.zeros((20, 3))
    nan, negative, fraction = good.copy(), good.copy(), good.copy()
    nan[4, 1], negative[7, 2], fraction[3, 0] = np.nan, -1, 0.5
    return [
        pytest.param({"train": nan}, GaussianLikelihood(), "train: value nan at row", id="nan"),
        pytest.param(
            {"train": good, "valid": good, "test": nan}, GaussianLikelihood(), "test: .*row 4, column 1", id="where"
        ),
        pytest.param(
            {"train": good, "valid": negative, "test": good}, BinomialLikelihood(4), "row 7, column 2", id="support"
        ),
        pytest.param({"train": good, "valid": fraction, "test": good}, BernoulliLikelihood(), "0 or 1", id="fraction"),
        pytest.param({"train": good, "valid": good[:0]}, BernoulliLikelihood(), "valid: empty", id="empty"),
        pytest.param(
            {"train": good, "valid": good[:, :2]}, BernoulliLikelihood(), "'train': 3, 'valid': 2", id="width"
        ),
        pytest.param({"train": good[:, 0]}, BernoulliLikelihood(), r"shape \(20,\)", id="shape"),
        pytest.param({"train": good[:2]}, BernoulliLikelihood(), "2 rows: too few", id="few"),
        pytest.param(
            {"train": good[:3]}, GaussianLikelihood(), "3 rows: too few", id="one-is-left"
        ),  # 1 of 3: no spread
        pytest.param({"x": good}, BernoulliLikelihood(), "array 'x'", id="name"),
        pytest.param({"valid": good}, BernoulliLikelihood(), "no array 'train'", id="no-train"),
        pytest.param({"train": good.astype("U3")}, BernoulliLikelihood(), "must be real numbers", id="text"),
        pytest.param({"train": good, "labels": np.zeros(3)}, BernoulliLikelihood(), "one a row", id="labels"),
        pytest.param(
            {"train": good, "test": good, "labels_train": np.full(20, "cat"), "labels_test": np.zeros(20)},
            BernoulliLikelihood(),
            "labels of train: .*U3",
            id="names-and-numbers",
        ),
        pytest.param({"train": np.zeros((4, 3, 2, 2, 2))}, BernoulliLikelihood(), r"\(4, 3, 2, 2, 2\)", id="axes"),
        pytest.param({"train": np.zeros((4, 28, 28, 3))}, BernoulliLikelihood(), r"\(0, 3, 1, 2\)", id="channels-last"),
        pytest.param(
            {"train": np.zeros((4, 28, 28, 1))}, BernoulliLikelihood(), r"\(0, 3, 1, 2\)", id="grey-channels-last"
        ),
    ]


@pytest.mark.parametrize(("arrays", "likelihood", "message"), wrong_files())
def test_wrong_data_are_refused(
    tmp_path: Path, arrays: dict[str, object], likelihood: GaussianLikelihood, message: str
) -> None:
    path = save(tmp_path / "mine.npz", **arrays)
    with pytest.raises(FlowvaeError, match=message):
        Arrays(path, likelihood).load(0)


def test_the_place_that_is_named_is_that_in_the_file(tmp_path: Path) -> None:
    x = np.zeros((100, 5))
    x[17, 2] = np.nan
    path = save(tmp_path / "mine.npz", train=x)
    for seed in range(3):  # whatever the split that the row would fall into
        with pytest.raises(FlowvaeError, match="train: value nan at row 17, column 2"):
            Arrays(path, GaussianLikelihood()).load(seed)


@pytest.mark.parametrize("content", [b"", b"no array", b"PK\x03\x04 broken"])
def test_unreadable_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mine.npz"
    path.write_bytes(content)
    with pytest.raises(FlowvaeError, match="not a readable"):
        Arrays(path, BernoulliLikelihood()).load(0)
    with pytest.raises(FlowvaeError, match="no such file"):
        Arrays(tmp_path / "other.npz", BernoulliLikelihood()).load(0)


def test_pickled_arrays_are_not_opened(tmp_path: Path) -> None:
    path = save(tmp_path / "mine.npz", train=np.array([{"a": 1}], dtype=object))
    with pytest.raises(FlowvaeError, match="plain numbers") as refused:
        Arrays(path, BernoulliLikelihood()).load(0)
    assert "allow_pickle" not in str(refused.value)


@pytest.mark.parametrize(
    ("shape", "event"),
    [((20, 6), (6,)), ((20, 1), (1,)), ((20, 4, 5), (1, 4, 5)), ((20, 3, 4, 5), (3, 4, 5)), ((20, 2, 4, 3), (2, 4, 3))],
)
def test_arrays_keep_their_event_shape(tmp_path: Path, shape: tuple[int, ...], event: tuple[int, ...]) -> None:
    if shape[1] == 2:  # neither first nor last axis tells the channels
        shape, event = (20, 3, 4, 3), (3, 4, 3)
    x = np.random.default_rng(0).standard_normal(shape)
    data = Arrays(save(tmp_path / "mine.npz", train=x, valid=x, test=x), GaussianLikelihood()).load(0)
    assert data.shape == event
    assert torch.equal(data.train, torch.tensor(x, dtype=torch.float32).reshape(20, *event))


def test_the_place_of_a_pixel_is_named(tmp_path: Path) -> None:
    x = np.zeros((9, 3, 4, 5))
    x[7, 2, 1, 3] = np.nan
    with pytest.raises(FlowvaeError, match=r"row 7, value \(2, 1, 3\)"):
        Arrays(save(tmp_path / "mine.npz", train=x), BernoulliLikelihood()).load(0)


def test_names_become_numbers_in_sorted_order(tmp_path: Path) -> None:
    x = np.arange(40.0).reshape(20, 2)
    names = np.array(["dog", "cat", "cow", "ant"] * 5)
    path = save(tmp_path / "mine.npz", train=x, valid=x[:4], labels_train=names, labels_valid=names[:4])
    data = Arrays(path, GaussianLikelihood()).load(0)
    assert data.classes == ("ant", "cat", "cow", "dog")
    assert data.labels is not None
    assert data.labels["valid"].tolist() == [3, 1, 2, 0]
    for split in ("train", "test"):  # rows that were drawn from train keep their names
        rows = (getattr(data, split)[:, 0] / 2).long()
        assert [data.classes[number] for number in data.labels[split].tolist()] == names[rows].tolist()
