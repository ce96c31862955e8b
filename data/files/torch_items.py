"""Torch data sets as data: items as tensors, all at once or batch by batch in `DataLoader` workers."""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Size, Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from flowvae.core.errors import FlowvaeError, check_int_value, plain_number, shown
from flowvae.core.memory import check_memory
from flowvae.core.progress import bar
from flowvae.data.batch import positions
from flowvae.data.preparation import Part, check_axes
from flowvae.data.sources import apart, together

__all__ = ["TorchSource", "part_of_items"]

ROWS = 256  # items in a block when all items are read
TOGETHER = 4 * ROWS  # items in a request to a worker; the progress bar advances after each request
VALUES = 2**18  # values in batches that are read together; workers hold several times as many in shared memory
REMEDY = "an item must be x or a tuple (x, label), with x a tensor, an array or a grey or RGB image"


class TorchSource:
    """A torch `Dataset` as a source: items x, or tuples (x, label), are read when a batch needs them.

    An x is a tensor, an array or a PIL image, grey or RGB, with counts from 0 to 255; transforms of the data set apply.
    Matrices (H, W) are images of one channel.

    If items draw random numbers, every item is read with the generators of torch, NumPy and Python seeded by its
    number. So random transforms give the same result each time, with any number of workers, and reading does not change
    the state of these generators. Because seeding takes most of the time of a small item, items are first read without
    it; if that changes the state of a generator, they are read again, and from then on with seeds.

    Args:
        dataset: a data set with a length, and items of one shape.
        workers: number of `DataLoader` processes that read ahead; 0 reads in this process.

    Raises:
        FlowvaeError: for a data set without a length or items, or with items of another form.
    """

    def __init__(self, dataset: Any, workers: int = 0) -> None:
        check_int_value("TorchSource.workers", workers, least=0)
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
            remedy = ": give the data set in it, loader.dataset" if isinstance(dataset, DataLoader) else ""
            raise FlowvaeError(f"TorchSource({shown(dataset)}): must be a data set with a length and items{remedy}.")
        if not len(dataset):
            raise FlowvaeError(f"TorchSource({shown(dataset)}): is empty; give a data set with items.")
        self.dataset = dataset
        self.workers = workers
        self.dtype = torch.get_default_dtype()
        with _seeds_kept():
            first = _item(dataset, 0)[0]
        self.raw_dtype = first.dtype
        self.shape = Size((len(dataset), *first.shape))
        check_axes(f"TorchSource({shown(dataset)})", self.shape)
        self._items = _Batches(dataset, self.shape[1:], self.raw_dtype)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Tensor:
        index = positions(index, len(self))
        if not index.ndim:
            return self[index[None]][0]
        return _checked(self._items[index.tolist()]).values.to(self.dtype)

    def batches(self, order: Iterable[Tensor]) -> Iterator[Tensor]:
        """`self[index]` for each index in turn, read ahead by the workers."""
        return (items.values.to(self.dtype) for items in self.read(order))

    def read(self, order: Iterable[Tensor], most: int = VALUES) -> Iterator[Items]:
        """The items in their own type, for each index in turn.

        Args:
            order: indices, each (B,).
            most: largest number of values in indices that are read together.

        Raises:
            FlowvaeError: for an item of another shape or type than the first.
        """
        groups: deque[list[Tensor]] = deque()

        def numbers() -> Iterator[list[int]]:
            for group in together(order, math.prod(self.shape[1:]), most):
                groups.append(group)
                yield torch.cat(group).tolist()

        loader = DataLoader(
            self._items,
            batch_size=None,  # an index stands for a group of batches
            sampler=numbers(),
            num_workers=self.workers,
            collate_fn=_as_it_is,
            generator=torch.Generator().manual_seed(0),  # the default draws from the global generator
        )
        for items in map(_checked, loader):
            labels = iter(items.labels)
            for values in apart(items.values, groups.popleft()):
                yield Items(values, list(islice(labels, len(values))))

    def labels(self) -> NDArray[Any] | None:
        """Labels (N,) of all items, or None if the items have no labels; reads every item.

        Raises:
            FlowvaeError: if some items have no labels, or labels are both numbers and names.
        """
        return _joined(self.dataset, [items.labels for items in self.read_all("reading labels")])

    def read_all(self, what: str) -> Iterator[Items]:
        """All items in their own type, in blocks, with a progress bar."""
        order = torch.arange(len(self)).split(ROWS)
        most = min(VALUES, TOGETHER * math.prod(self.shape[1:]))
        yield from bar(what, "block", len(order), self.read(order, most))


class Items(NamedTuple):
    """Items of a data set: values (B, *event shape) in their own type, and the label of each or None."""

    values: Tensor
    labels: list[Any]


class _Batches(TorchDataset[Items | str]):
    """A data set whose items are batches of items of another data set, or messages of errors."""

    def __init__(self, dataset: Any, shape: Size, dtype: torch.dtype) -> None:
        self.dataset, self.shape, self.dtype = dataset, shape, dtype
        self.draws = False  # whether an item was found to draw random numbers

    def __getitem__(self, numbers: list[int]) -> Items | str:
        try:
            with _seeds_kept() as changed:
                if not self.draws:
                    with suppress(Exception):  # an error that seeds do not prevent occurs again below
                        items = self._read(numbers, seeded=False)
                        if not changed():
                            return items
                    self.draws = changed()
                return self._read(numbers, seeded=True)
        except FlowvaeError as error:
            return str(error)  # an exception of a worker would carry its whole traceback

    def _read(self, numbers: list[int], seeded: bool) -> Items:
        found, labels = [], []
        for number in numbers:
            x, label = _item(self.dataset, number, seeded)
            if x.shape != self.shape or x.dtype != self.dtype:
                raise FlowvaeError(
                    f"{shown(self.dataset)}: item {number} has the shape {tuple(x.shape)} and {x.dtype}, "
                    f"item 0 {tuple(self.shape)} and {self.dtype}; give all of them one, by a transform."
                )
            found.append(x)
            labels.append(label)
        return Items(torch.stack(found) if found else torch.empty(0, *self.shape, dtype=self.dtype), labels)


def part_of_items(dataset: Any, workers: int = 0, with_labels: bool = True) -> tuple[Part, tuple[str, ...]]:
    """A torch data set as a split, and the names of its classes.

    Args:
        dataset: the data set, which is read into memory in its own type; a `TorchSource` is not.
        workers: number of processes of a `TorchSource` of the data set; 0 reads it into memory.
        with_labels: whether to return the labels of the items.

    Raises:
        FlowvaeError: for a data set larger than memory, and items of another form.
    """
    if isinstance(dataset, TorchSource) or workers:
        source = dataset if isinstance(dataset, TorchSource) else TorchSource(dataset, workers)
        labels = source.labels() if with_labels else None
        return Part(source, labels), _class_names(source.dataset, labels)
    source = TorchSource(dataset)
    size = source.raw_dtype.itemsize * source.shape.numel()
    check_memory(shown(dataset), size, "read it as TorchSource(dataset, workers=4), batch by batch")
    values = torch.empty(source.shape, dtype=source.raw_dtype)
    found: list[list[Any]] = []
    for items in source.read_all("reading data"):
        start = ROWS * len(found)
        values[start : start + len(items.values)] = items.values
        found.append(items.labels)
    labels = _joined(dataset, found) if with_labels else None
    return Part(values.numpy(), labels), _class_names(dataset, labels)


def _class_names(dataset: Any, labels: NDArray[Any] | None) -> tuple[str, ...]:
    """The class names of a torchvision data set; empty if it has none for these labels."""
    names = getattr(dataset, "classes", ())
    if labels is None or labels.dtype.kind not in "iu" or not isinstance(names, list | tuple):
        return ()
    named = bool(names) and all(isinstance(name, str) for name in names) and 0 <= labels.min() <= labels.max()
    return tuple(names) if named and labels.max() < len(names) else ()


def _item(dataset: Any, number: int, seeded: bool = True) -> tuple[Tensor, Any]:
    """One item as a tensor in its own type, (D,) or (C, H, W), and its label."""
    if seeded:
        torch.default_generator.manual_seed(number)
        np.random.seed(number % 2**32)  # noqa: NPY002  (which transforms may draw from)
        random.seed(number)
    item = dataset[number]
    x, label = item, None
    if isinstance(item, tuple | list):
        x = item[0] if item else None
        label = plain_number(item[1].item() if _is_scalar(item[1]) else item[1]) if len(item) > 1 else None
    label = label if isinstance(label, int | float | str) else None
    if type(x) is not Tensor or x.requires_grad or not x.is_cpu:
        x = _as_plain_tensor(dataset, number, x)
    if x is None or not 1 <= x.ndim <= 3 or x.is_complex():
        raise FlowvaeError(f"{shown(dataset)}: item {number} is {shown(item)}; {REMEDY}.")
    return (x[None] if x.ndim == 2 else x), label


def _as_plain_tensor(dataset: Any, number: int, x: Any) -> Tensor | None:
    """Convert an array, image or tensor to a tensor on the CPU without gradients; None for other types."""
    if hasattr(x, "getbands"):  # a PIL image
        if x.mode not in ("1", "L", "RGB"):
            raise FlowvaeError(
                f"{shown(dataset)}: item {number} is an image of mode {x.mode}; convert it by a transform, such as "
                "transforms.Lambda(lambda image: image.convert('RGB'))."
            )
        pixels = np.array(x)
        x = pixels.transpose(2, 0, 1) if pixels.ndim == 3 else pixels
    if not isinstance(x, np.ndarray | Tensor):
        return None
    try:
        return torch.as_tensor(x).detach().cpu().as_subclass(Tensor)
    except TypeError:  # an array of objects
        return None


def _is_scalar(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray) and value.ndim == 0


def _joined(dataset: Any, parts: list[list[Any]]) -> NDArray[Any] | None:
    """Labels of all items as an array."""
    labels = [label for part in parts for label in part]
    without = [label is None for label in labels]
    if all(without):
        return None
    texts = [isinstance(label, str) for label in labels]
    if any(without) or any(texts) != all(texts):
        first = without.index(True) if any(without) else texts.index(not texts[0])
        raise FlowvaeError(
            f"{shown(dataset)}: item {first} has the label {shown(labels[first])}, unlike other items; labels must be "
            "numbers for all items, or names for all."
        )
    return np.array(labels)


def _checked(found: Items | str) -> Items:
    if isinstance(found, str):
        raise FlowvaeError(found)
    return found


def _as_it_is(items: Any) -> Any:
    return items


@contextmanager
def _seeds_kept() -> Iterator[Callable[[], bool]]:
    """Restore the states of the random generators of torch (CPU), NumPy and Python after the block.

    Yields:
        A function that says whether the state of a generator has changed.
    """

    def states() -> tuple[Tensor, tuple[Any, ...], tuple[Any, ...]]:
        return torch.get_rng_state(), np.random.get_state(), random.getstate()  # type: ignore[return-value]  # noqa: NPY002

    def changed() -> bool:
        torch_now, (_, numbers, *position), state_now = states()
        return not (
            torch.equal(torch_now, torch_state)
            and np.array_equal(numbers, numpy_state[1])
            and position == [*numpy_state[2:]]
            and state_now == state
        )

    torch_state, numpy_state, state = states()
    try:
        yield changed
    finally:
        torch.set_rng_state(torch_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(state)
