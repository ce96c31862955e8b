"""Data sets: event shapes, labels, conditions, identity, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Size, Tensor

from flowvae.core.errors import FlowvaeError
from flowvae.core.parts import parse_likelihood
from flowvae.data import Batch, Dataset, Digits, Moons, Pinwheel, Sprites, to_tensor
from flowvae.data.dataset import SPLITS
from flowvae.models import BinomialLikelihood, GaussianLikelihood


def test_a_dataset_says_what_it_is() -> None:
    identity = Digits().load(2).identity
    assert identity.name == "digits"
    assert "train 1257, valid 270, test 270" in identity.split
    assert len(identity.sha256) == 16
    assert isinstance(Digits().load(2), Dataset)


def test_data_of_another_type_or_shape_are_refused() -> None:
    digits = Digits().load(0)
    with pytest.raises(FlowvaeError, match=r"valid: torch\.float64; all splits must be of one floating-point type"):
        replace(digits, valid=digits.valid.double())
    with pytest.raises(FlowvaeError, match=r"train: torch\.int64; all splits must be of one floating-point type"):
        replace(digits, train=digits.train.long())
    with pytest.raises(FlowvaeError, match=r"\(1, 8, 8\).*\(64,\)"):
        replace(digits, valid=digits.flat().valid)
    with pytest.raises(FlowvaeError, match=r"\(1257, 1, 1, 8, 8\)"):
        replace(digits, train=digits.train[:, None])


def test_a_likelihood_may_be_a_word() -> None:
    digits = Digits().load(0)
    assert replace(digits, likelihood="binomial:16").likelihood == BinomialLikelihood(16)  # type: ignore[arg-type]


X = torch.arange(24.0).reshape(6, 4)


WRONG: list[tuple[str, object, str]] = [
    ("likelihood", "bernoulli", "0 or 1"),
    ("likelihood", "poison", "'poison'"),
    ("likelihood", GaussianLikelihood, "likelihood = <class"),
    ("likelihood", None, "likelihood = None"),
    ("train", X.numpy(), "train: <ndarray of shape"),
    ("train", X.tolist(), "train: "),
    ("train", None, "train: None"),
    ("valid", X.to_sparse(), "valid: <Tensor"),
    ("valid", X.to("meta"), "valid: <Tensor"),
    ("train", X.half(), r"train: torch\.float16"),
    ("name", None, "name = None"),
    ("name", "two\nlines", "one line"),
    ("preprocessing", 3, "preprocessing = 3"),
    ("split", b"s", "split = b's'"),
    ("labels", [1] * 6, "labels = "),
    ("labels", {"train": [1] * 6}, r"labels of train: \[1"),
    ("labels", {"train": torch.zeros(5)}, r"labels of train: .*\(6,\)"),
    ("labels", {"test": torch.zeros(6, 1)}, r"labels of test: .*\(6,\)"),
    ("labels", {"train": torch.full((6,), math.nan)}, "labels of train: .*finite"),
    ("labels", {"tests": torch.zeros(6)}, "labels = .*tests"),
    ("factors", {"train": torch.zeros(6)}, "factors of train"),
    ("labels", {"train": ["a"] * 5}, r"labels of train: .*\(6,\)"),
    ("labels", {"train": ["a"] * 6, "test": torch.zeros(6)}, "labels of train: .*'a'"),
    ("conditions", {"train": torch.zeros(6, 2)}, "conditions lack valid"),
    ("conditions", {split: torch.zeros(6) for split in SPLITS}, r"conditions of train: .*\(6, "),
    ("conditions", {split: torch.zeros(6, 2).double() for split in SPLITS}, r"torch\.float64.*torch\.float32"),
    ("conditions", {split: torch.zeros(6, 1 + (split == "test")) for split in SPLITS}, "train 1 .*test 2 "),
    ("conditions", {split: torch.full((6, 2), math.inf) for split in SPLITS}, "conditions of train: .*finite"),
    ("classes", ["a", "b"], r"classes = \['a', 'b'\]"),
    ("log_evidence", 3.0, r"log_evidence = 3\.0"),
    ("offset", torch.zeros(4), "offset = .*float64"),
    ("offset", torch.zeros(3, dtype=torch.float64), r"offset = .*\(4,\)"),
]


@pytest.mark.parametrize(("name", "value", "said"), WRONG, ids=lambda value: str(value)[:20])
def test_a_part_of_another_type_is_refused_in_one_line(name: str, value: object, said: str) -> None:
    right = Dataset(X, X, X, GaussianLikelihood(), "n", "p", "s")
    with pytest.raises(FlowvaeError, match=said) as refused:
        replace(right, **{name: value})  # type: ignore[arg-type]
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("spec", [Sprites, Moons, Pinwheel])
def test_sizes_may_be_numpy_s_and_must_fit_into_memory(spec: type[Sprites | Moons | Pinwheel]) -> None:
    few = spec(train=np.int64(5), valid=np.int32(4), test=np.uint8(3))  # type: ignore[arg-type]
    assert [type(few.train), type(few.valid), type(few.test)] == [int, int, int]
    assert len(few.load(0).train) == 5
    with pytest.raises(FlowvaeError, match="B of memory"):
        spec(train=10**13).load(0)


def shaped(*shape: int, rows: int = 12) -> Dataset:
    x = torch.randn(3 * rows, *shape, generator=torch.Generator().manual_seed(0))
    return Dataset(*x.split(rows), likelihood="gaussian", name="toy", preprocessing="none", split="in order")  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(5,), (2, 7), (3, 4, 2)])
def test_data_keep_their_event_shape(shape: tuple[int, ...]) -> None:
    data = shaped(*shape)
    assert data.shape == Size(shape)
    assert data.features == math.prod(shape)
    offset = 100 * torch.rand(shape, dtype=torch.float64)
    moved = replace(data, offset=offset)
    draws = torch.randn(6, 5, *shape)
    torch.testing.assert_close(moved.original(draws), draws.double() + offset)
    assert moved.identity.sha256 != data.identity.sha256


def test_flat_data_are_the_same_numbers_in_rows() -> None:
    def log_evidence(x: Tensor) -> Tensor:
        assert x.shape[1:] == (3, 4, 2)
        return x[:, 2, 1, 0]

    data = replace(shaped(3, 4, 2), offset=torch.rand(3, 4, 2, dtype=torch.float64), log_evidence=log_evidence)
    flat = data.flat()
    assert flat.shape == (24,)
    assert torch.equal(flat.test.reshape(-1, 3, 4, 2), data.test)
    assert torch.equal(flat.original(flat.test), data.original(data.test).flatten(1))
    assert flat.log_evidence is not None
    assert torch.equal(flat.log_evidence(flat.test), log_evidence(data.test))
    assert flat.identity.sha256 != data.identity.sha256
    assert "3 × 4 × 2" in flat.identity.preprocessing
    assert flat.flat() is flat


def test_a_split_is_a_batch_with_its_conditions() -> None:
    data = shaped(5)
    assert data.batch("test") == Batch(data.test)
    assert len(data.batch("test").args) == 1
    given = replace(data, conditions={split: torch.rand(12, 2) for split in SPLITS})
    x, c = given.batch("valid").args
    assert given.conditions is not None
    assert x is data.valid
    assert c is given.conditions["valid"]
    assert given.identity.sha256 != data.identity.sha256


def test_labels_may_be_names() -> None:
    names = {"train": ["dog", "cat"] * 6, "test": np.array(["eel", "cat", "dog"] * 4)}
    data = replace(shaped(2), labels=names)  # type: ignore[arg-type]
    assert data.labels is not None
    assert data.classes == ("cat", "dog", "eel")
    assert data.class_count == 3
    for split, given in names.items():
        assert [data.classes[number] for number in data.labels[split].tolist()] == list(given)
    again = replace(data, name="other")
    assert again.classes == data.classes
    with pytest.raises(FlowvaeError, match="labels of train: 7 with 3 classes"):
        replace(data, labels={"train": torch.full((12,), 7)})


def test_classes_are_counted_over_all_splits() -> None:
    data = replace(shaped(2), labels={"train": np.zeros(12, int), "test": torch.arange(12.0)})  # type: ignore[dict-item]
    assert data.class_count == 12
    for labels in (None, {"train": torch.full((12,), 0.5)}, {"train": torch.full((12,), -1)}):
        with pytest.raises(FlowvaeError, match="toy"):
            _ = replace(data, labels=labels).class_count


class Rows:
    """A source: data in a NumPy array, which could be a memory map, read by index and counted."""

    def __init__(self, x: Tensor) -> None:
        self.x = x.numpy()
        self.largest = 0

    @property
    def shape(self) -> Size:
        return Size(self.x.shape)

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: Tensor) -> Tensor:
        self.largest = max(self.largest, len(index))
        return torch.from_numpy(self.x[index.numpy()])

    def batches(self, order: Iterable[Tensor]) -> Iterator[Tensor]:
        return (self[index] for index in order)


@pytest.mark.parametrize("likelihood", ["gaussian", "gaussian:0.3", "gaussian:shared"])
def test_a_source_is_checked_block_by_block(likelihood: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same identity, units and errors as in memory, with few data points read at a time."""
    monkeypatch.setattr("flowvae.data.access.VALUES", 60)
    monkeypatch.setattr("flowvae.data.precision.SAMPLE", 7)
    data = replace(shaped(2, 3, rows=50), likelihood=parse_likelihood(likelihood))
    sources = {split: Rows(getattr(data, split)) for split in SPLITS}
    read = replace(data, **sources)
    assert read.identity == data.identity
    assert read.shape == data.shape
    for found, expected in zip(read.likelihood.units(read.train), data.likelihood.units(data.train), strict=True):
        torch.testing.assert_close(found, expected)
    assert 0 < max(source.largest for source in sources.values()) <= 15
    flat = read.flat()
    assert flat.identity == data.flat().identity
    assert torch.equal(to_tensor(flat.train, "test"), data.flat().train)
    wrong = data.test.clone()
    wrong[43, 1, 2] = math.nan
    with pytest.raises(FlowvaeError, match=r"toy, test: value nan at row 43, value \(1, 2\)"):
        replace(read, test=Rows(wrong))
    far = data.test.clone()
    far[42, 0, 1] = 1e14
    with pytest.raises(FlowvaeError, match=r"toy, test: value 1e\+14 at row 42, value \(0, 1\)"):
        replace(read, test=Rows(far))
    crowded = data.train.clone()
    crowded[41, 1, 0] = 1e12
    if likelihood == "gaussian":  # a fixed or shared scale is refused as a whole
        with pytest.raises(FlowvaeError, match=r"value \(1, 0\) has outliers such as 1e\+12 at row 41"):
            replace(read, train=Rows(crowded))
