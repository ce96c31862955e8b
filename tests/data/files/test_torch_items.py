"""Torch data sets that `DataLoader` workers read: the same values and random numbers for any number."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import IterableDataset
from torchvision import transforms

from flowvae import MLP, Experiment, Training
from flowvae.core.errors import FlowvaeError
from flowvae.data import Source, TorchSource, as_data
from flowvae.data.files.torch_items import part_of_items


class Noisy(TorchDataset[Any]):
    """Items that a transform draws at random, from three generators."""

    def __len__(self) -> int:
        return 30

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        noise = torch.rand(3) + np.random.rand() + random.random()  # noqa: NPY002
        return number + noise / 100, number % 3


ORDER = [torch.tensor([4, 1, 9]), torch.tensor([29]), torch.tensor([0, 1, 2, 3])]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_come_in_the_order_that_was_asked_for(workers: int) -> None:
    source = TorchSource(Noisy(), workers)
    assert isinstance(source, Source)
    assert source.shape == (30, 3)
    assert source.dtype == torch.float32
    found = list(source.batches(iter(ORDER)))
    assert [x[:, 0].long().tolist() for x in found] == [index.tolist() for index in ORDER]
    assert all(torch.equal(x, source[index]) for x, index in zip(found, ORDER, strict=True))
    labels = source.labels()
    assert labels is not None
    assert labels.tolist() == [number % 3 for number in range(30)]


def states() -> list[Any]:
    """The next numbers of the process's generators."""
    return [torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random()]  # noqa: NPY002


@pytest.mark.parametrize("workers", [0, 2])
def test_random_transforms_are_fixed_and_change_no_other_random_numbers(workers: int) -> None:
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    random.seed(3)
    expected = states()
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    random.seed(3)
    first = torch.cat(list(TorchSource(Noisy(), workers).batches(ORDER)))
    assert states() == expected
    again = torch.cat(list(TorchSource(Noisy(), 0).batches(ORDER)))
    assert torch.equal(first, again)
    assert len(first.frac().unique()) > 20


class SeldomNoisy(TorchDataset[Any]):
    """Items of which the largest numbers draw; `asked` are those that were read."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __len__(self) -> int:
        return 30

    def __getitem__(self, number: int) -> Tensor:
        self.asked.append(number)
        return number + (torch.rand(3) / 100 if number >= 20 else torch.zeros(3))


@pytest.mark.parametrize("generator", ["torch", "numpy", "python"])
def test_items_that_draw_are_seeded_by_their_number(generator: str) -> None:
    draw = {"torch": lambda: torch.rand(()).item(), "numpy": np.random.random_sample, "python": random.random}[
        generator
    ]

    class Drawing(SeldomNoisy):
        def __getitem__(self, number: int) -> Tensor:
            return torch.zeros(1) + (draw() if number >= 20 else 0)

    found = TorchSource(Drawing())[torch.tensor([25, 3, 21])]
    expected = []
    for number in (25, 21):
        torch.manual_seed(number)
        np.random.seed(number)  # noqa: NPY002
        random.seed(number)
        expected.append(torch.zeros(()) + draw())
    assert torch.equal(found[:, 0], torch.stack([expected[0], torch.zeros(()), expected[1]]))


def test_items_are_read_twice_only_where_one_draws() -> None:
    dataset = SeldomNoisy()
    source = TorchSource(dataset)
    dataset.asked.clear()
    source[torch.tensor([3, 4])]
    assert dataset.asked == [3, 4]
    source[torch.tensor([4, 25])]
    assert dataset.asked == [3, 4, 4, 25, 4, 25]
    source[torch.tensor([25])]
    assert dataset.asked == [3, 4, 4, 25, 4, 25, 25]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("most", [1, 12, 10**6])
def test_batches_that_are_read_together_are_those_of_each_index(
    monkeypatch: pytest.MonkeyPatch, most: int, workers: int
) -> None:
    monkeypatch.setattr("flowvae.data.files.torch_items.VALUES", most)
    source = TorchSource(Noisy(), workers)
    for index, items in zip(ORDER, source.read(ORDER), strict=True):
        assert torch.equal(items.values, source[index])
        assert items.values.untyped_storage().nbytes() == 4 * items.values.numel()
        assert items.labels == [number % 3 for number in index.tolist()]


def test_training_with_workers_is_training_without() -> None:
    codes = []
    for workers in (0, 2):
        experiment = Experiment(
            latent=2,
            encoder=MLP((8,)),
            decoder=MLP((8,)),
            data=as_data(TorchSource(Noisy(), workers), "gaussian"),
            inference=Training(epochs=1, batch_size=16, device="cpu"),
        )
        run = experiment.run(progress=False)
        codes.append(run.encode(torch.ones(4, 3)))
        assert run.data.labels is not None
    assert torch.equal(*codes)


class Listed(TorchDataset[Any]):
    def __init__(self, *items: Any) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> Any:
        return self.items[number]


GREY = Image.fromarray(np.arange(20, dtype=np.uint8).reshape(4, 5))


@pytest.mark.parametrize(
    ("item", "shape", "kind"),
    [
        (torch.zeros(3), (3,), np.float32),
        (np.zeros(3), (3,), np.float64),
        (torch.zeros(4, 5, dtype=torch.uint8), (1, 4, 5), np.uint8),
        (GREY, (1, 4, 5), np.uint8),
        (GREY.convert("RGB"), (3, 4, 5), np.uint8),
        (GREY.point(lambda p: 255 * (p > 9)).convert("1"), (1, 4, 5), np.bool_),
        (transforms.ToTensor()(GREY), (1, 4, 5), np.float32),
        ((GREY, {"box": 3}), (1, 4, 5), np.uint8),
    ],
)
def test_forms_of_items(item: Any, shape: tuple[int, ...], kind: type) -> None:
    part, classes = part_of_items(Listed(item, item))
    assert part.x.shape == (2, *shape)
    assert part.x.dtype == kind
    assert part.labels is None
    assert classes == ()


@pytest.mark.parametrize("label", [1, 2.5, "cat", np.int64(3), torch.tensor(4), np.float32(0.5), True])
def test_a_label_is_one_number_or_name(label: Any) -> None:
    labels = part_of_items(Listed((GREY, label), [GREY, label]))[0].labels
    assert labels is not None
    assert labels.tolist() == [label, label]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("items", "message"),
    [
        ((torch.zeros(3), torch.zeros(4)), r"item 1 .*\(4,\).*item 0 .*\(3,\)"),
        ((torch.zeros(3), torch.zeros(3).double()), r"item 1 .*float64.*item 0 .*float32"),
        ((torch.zeros(3), GREY.convert("RGBA")), r"item 1 .*RGBA.*convert\('RGB'\)"),
        ((torch.zeros(3), {"x": torch.zeros(3)}), "item 1 is {'x'"),
        (((GREY, "cat"), (GREY, 3)), "item 1 has the label 3"),
        (((GREY, 3), (GREY, None)), "item 1 has the label None"),
        ((torch.zeros(3), np.array([object()])), "item 1 is"),
    ],
)
def test_other_items_are_named(items: tuple[Any, ...], message: str, workers: int) -> None:
    with pytest.raises(FlowvaeError, match=message) as refused:
        part_of_items(Listed(*items), workers)
    assert "\n" not in str(refused.value)


def test_other_data_sets_are_refused() -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter([torch.zeros(3)])

    for dataset in (Stream(), Listed(), None):
        with pytest.raises(FlowvaeError, match="TorchSource"):
            TorchSource(dataset)
    with pytest.raises(FlowvaeError, match=r"workers = -1"):
        TorchSource(Noisy(), -1)
    with pytest.raises(FlowvaeError, match=r"\(0, 3, 1, 2\)"):
        TorchSource(Listed(torch.zeros(28, 28, 3)))


def test_small_items_are_read_in_steps_so_that_a_bar_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowvae.data.files.torch_items.ROWS", 2)
    monkeypatch.setattr("flowvae.data.files.torch_items.TOGETHER", 4)
    done = []

    class Counted(Listed):
        def __getitem__(self, number: int) -> Any:
            done.append(number)
            return super().__getitem__(number)

    x = torch.arange(40.0).reshape(20, 2)
    source = TorchSource(Counted(*x))
    read = source.read_all("reading data")
    start = next(read).values
    assert len(done) < 10  # of 20
    assert torch.equal(torch.cat([start, *(items.values for items in read)]), x)
