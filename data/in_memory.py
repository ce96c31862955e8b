"""Arrays, tensors, data frames and torch data sets as data of an experiment."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Size, Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from flowvae.core.errors import FlowvaeError, nearest, shown
from flowvae.core.parts import LikelihoodSpec, as_likelihood
from flowvae.core.registry import families
from flowvae.data.access import blocks, first
from flowvae.data.batch import Source
from flowvae.data.dataset import SPLITS, Dataset, DataSpec
from flowvae.data.files.frames import is_column, is_frame, part_of_frame
from flowvae.data.files.torch_items import TorchSource, part_of_items
from flowvae.data.images.image_data import prepare_values
from flowvae.data.images.preprocessing import OptionalPreprocessing, Preprocessing
from flowvae.data.labels import is_text
from flowvae.data.preparation import Part, as_event_shape
from flowvae.data.sources import array_blocks

__all__ = ["InMemory", "as_data"]

FORMS = (
    "an array or tensor (N, …), a pair (x, labels), splits (train, valid, test) or {'train': …}, a data frame, a torch "
    "data set, a Source, a Dataset or a DataSpec"
)


@dataclass(frozen=True)
class Held:
    """Data given in Python: splits to prepare, or a finished data set."""

    parts: Mapping[str, Part]
    classes: tuple[str, ...] = ()
    ready: Dataset | None = None

    def digest(self) -> str:
        """The checksum of the data as given, 16 hexadecimal digits."""
        found = hashlib.sha256(repr(self.classes).encode())
        parts = self.parts
        if self.ready is not None:
            found.update(self.ready.identity.sha256.encode())
            labels = self.ready.labels or {}
            parts = {split: Part(values.numpy(force=True)) for split, values in labels.items()}
        for split, part in parts.items():
            for what, values in (("x", part.x), ("labels", part.labels), ("conditions", part.conditions)):
                if values is not None:
                    found.update(f"{split} {what} {tuple(values.shape)}".encode())
                    _update(found, values)
        return found.hexdigest()[:16]


@dataclass(frozen=True)
class InMemory(OptionalPreprocessing, DataSpec, name="in-memory"):
    """Data given in Python by `as_data`; files store only their checksum.

    A run that was trained on them can be loaded, encodes and samples without them. To evaluate it, pass them again:
    `load(directory, data=x)`. To continue its training, train the same experiment with `resume=True`.

    Args:
        name: name of the data set.
        likelihood: likelihood of the values, in text form.
        sha256: checksum of the data, 16 hexadecimal digits.
    """

    title: ClassVar[str] = "arrays, tensors, data frames and torch data sets, from Python"

    name: str
    likelihood: LikelihoodSpec
    sha256: str
    held: Held | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "likelihood", as_likelihood("data.likelihood", self.likelihood))
        for text in ("name", "sha256"):
            if not isinstance(getattr(self, text), str):
                raise FlowvaeError(f"data.{text} = {shown(getattr(self, text))}: must be a text.")

    @classmethod
    def of(
        cls, held: Held, likelihood: LikelihoodSpec, name: str, preprocessing: Mapping[str, Any] = MappingProxyType({})
    ) -> InMemory:
        """Create a data spec that holds its data."""
        spec = cls(name, likelihood, held.digest(), **preprocessing)
        object.__setattr__(spec, "held", held)
        return spec

    def given(self, value: Any) -> DataSpec:
        """The same spec with its data, passed again as the original value or as a result of `as_data`.

        Raises:
            FlowvaeError: for other data.
        """
        ready = isinstance(value, DataSpec | Dataset)
        preprocessing = {f.name: getattr(self, f.name) for f in fields(Preprocessing)}
        spec = as_data(value) if ready else as_data(value, self.likelihood, name=self.name, **preprocessing)
        if spec != self:
            raise FlowvaeError(
                f"data {shown(value)}: are not those of the training, {_difference(spec, self)}; give the same values "
                "in the same type, and labels and conditions by as_data(x, likelihood, labels=…, conditions=…, name=…)."
            )
        return spec

    @property
    def shape(self) -> Size:
        held = self._held()
        if held.ready is not None:
            return held.ready.shape
        shape = Size(held.parts["train"].x.shape[1:])
        return self.event_shape(shape) if self.is_image and len(shape) == 3 else shape

    def load(self, seed: int) -> Dataset:
        held = self._held()
        if not any(_is_streamed(part.x) for part in held.parts.values()) and held.digest() != self.sha256:
            raise FlowvaeError(f"{self.name}: the arrays have been changed since as_data(…); call it again.")
        if held.ready is not None:
            return held.ready
        return prepare_values(self.name, held.parts, self, seed, name=self.name, classes=held.classes)

    def _held(self) -> Held:
        if self.held is None:
            raise FlowvaeError(
                f"{self.name}: these data were given in Python and are not stored; pass them again, as "
                "load(directory, data=x), or in Experiment(data=as_data(x, likelihood)) to continue the training."
            )
        return self.held


def as_data(
    value: Any,
    likelihood: LikelihoodSpec | str | None = None,
    *,
    labels: Any = None,
    conditions: Any = None,
    name: str = "in-memory",
    **preprocessing: Any,
) -> DataSpec:
    """Wrap data as the data set of an experiment: `Experiment(data=as_data(x, "bernoulli"))`.

    | value | data |
    | --- | --- |
    | array or tensor (N, D), (N, H, W) or (N, C, H, W) | train |
    | (x, labels), labels of shape (N,) | train with labels |
    | (train, valid, test), or a dictionary by split | each in a form of this table |
    | data frame | rows of its columns; `labels` and `conditions` are names of columns |
    | torch or torchvision data set of x or (x, label) | train, read into memory; images are counts from 0 to 255 |
    | `TorchSource`, or any other `Source`; memory-mapped array | train, read batch by batch |
    | `Dataset`, `DataSpec` | unchanged |

    Missing splits are drawn from train, 15 % each, with labels and conditions, by the run's seed.

    Images with intensities 0..255 (or 0..1 in floating point) may be preprocessed: `as_data(images, values="dynamic")`
    binarizes the training images anew in every epoch.

    Args:
        value: the data.
        likelihood: likelihood of the values, such as "bernoulli", "binomial:255" or "gaussian"; optional with `values`,
            which have a default likelihood.
        labels: class labels, (N,), numbers or names; by split if the data are.
        conditions: covariates of a conditional model, (N, C); by split if the data are.
        name: name of the data set.
        preprocessing: settings of `Preprocessing`: values, levels, resize, crop, flips, colour.

    Raises:
        FlowvaeError: for another form, or a missing likelihood; suggests one that fits.
    """
    known = [f.name for f in fields(Preprocessing)]
    if unknown := [setting for setting in preprocessing if setting not in known]:
        raise FlowvaeError(f"as_data: no setting {shown(unknown[0])}; {nearest(unknown[0], known)}")
    how = OptionalPreprocessing(**preprocessing)
    if isinstance(value, DataSpec | Dataset):
        if preprocessing or not (likelihood is None and labels is None and conditions is None):
            raise FlowvaeError(
                f"as_data({shown(value)}): has its own likelihood, labels, conditions and preprocessing; change them "
                "there, with dataclasses.replace."
            )
        if isinstance(value, DataSpec):
            return value
        return InMemory.of(Held({}, ready=value), value.likelihood, value.name)
    if isinstance(value, type) and issubclass(value, DataSpec):
        raise FlowvaeError(
            f"Experiment.data = {shown(value)}: must be a DataSpec object; {value.__name__}(…) makes one."
        )
    if not isinstance(name, str) or len(name.splitlines()) != 1:
        raise FlowvaeError(f"as_data: name = {shown(name)}; must be one line of text.")
    splits = _by_split(value)
    if likelihood is not None:
        likelihood = as_likelihood("as_data: likelihood", likelihood)
    if how.is_image:
        likelihood = how.decide_likelihood(likelihood)
    elif likelihood is None and isinstance(splits["train"], TorchDataset):  # reading all items may take long
        splits = {"train": first(TorchSource(splits["train"]), 1000)}
        labels = conditions = None
    parts: dict[str, Part] = {}
    classes: list[tuple[str, ...]] = []
    for split, x in splits.items():
        given = {"labels": labels, "conditions": conditions}
        own = {what: _of_split(what, values, split, splits) for what, values in given.items()}
        parts[split], found = _part(f"{name}, {split}", x, **own)
        classes.append(found)
    if likelihood is None:
        forms = ", ".join(families("likelihood"))
        raise FlowvaeError(
            f"data {shown(value)}: say what the numbers are, as_data(x, likelihood), one of {forms}; these values fit "
            f"{_fitting(parts['train'].x)}."
        )
    named = next((found for found in classes if found), ())
    return InMemory.of(Held(parts, named), likelihood, name, preprocessing)


def _by_split(value: Any) -> dict[str, Any]:
    """A value as a dictionary of splits."""
    if isinstance(value, Mapping):
        for split in value:
            if split not in SPLITS:
                raise FlowvaeError(f"data by split: {shown(split)}; {nearest(split, SPLITS)}")
        if "train" not in value:
            raise FlowvaeError("data by split: there is no 'train'; add it.")
        return {split: value[split] for split in SPLITS if split in value}
    if isinstance(value, tuple | list) and len(value) == 3 and all(map(_is_data, value)):
        return dict(zip(SPLITS, value, strict=True))
    return {"train": value}


def _of_split(what: str, given: Any, split: str, splits: Mapping[str, Any]) -> Any:
    """Labels or conditions of one split; column names apply to all splits."""
    if isinstance(given, Mapping):
        if unknown := [key for key in given if key not in splits]:
            raise FlowvaeError(f"as_data: {what} of {shown(unknown[0])}; {nearest(unknown[0], splits)}")
        return given.get(split)
    if given is not None and len(splits) > 1 and not all(map(is_frame, splits.values())):
        raise FlowvaeError(f"as_data: {what} = {shown(given)}; give them by split, {{'train': …}}, as the data are.")
    return given


def _part(where: str, x: Any, labels: Any, conditions: Any) -> tuple[Part, tuple[str, ...]]:
    """One split, and the names of its classes if the data set has them."""
    if isinstance(x, tuple | list) and len(x) == 2 and _is_data(x[0]) and not isinstance(x[0], TorchDataset):
        if labels is not None or np.ndim(x[1]) != 1:
            raise FlowvaeError(
                f"{where}: a pair with {shown(x[1])}; a pair is (x, labels) with labels of shape (N,), given once. "
                "Splits are (train, valid, test) or {'train': …, 'test': …}."
            )
        x, labels = x
    if is_frame(x):
        column = labels if isinstance(labels, str | int) else None
        columns = [conditions] if isinstance(conditions, str) else conditions if isinstance(conditions, list) else None
        part = part_of_frame(where, x, column, columns)
        return Part(
            part.x,
            part.labels if column is not None or labels is None else _array(where, labels),
            part.conditions if columns is not None or conditions is None else _array(where, conditions),
        ), ()
    if isinstance(x, DataLoader):
        raise FlowvaeError(f"{where}: {shown(x)}; give the data set in it, loader.dataset.")
    classes: tuple[str, ...] = ()
    if isinstance(x, TorchDataset | TorchSource):
        part, classes = part_of_items(x, with_labels=labels is None)
        x, labels = part.x, part.labels if labels is None else labels
    if not _is_data(x):
        raise FlowvaeError(f"{where}: {shown(x)}; must be {FORMS}.")
    if not isinstance(x, Source):
        x = as_event_shape(where, _array(where, x))
    given = [None if part is None else _array(where, part) for part in (labels, conditions)]
    return Part(x, *given), classes


def _is_data(value: Any) -> bool:
    if isinstance(value, np.ma.MaskedArray):
        return False
    return isinstance(value, np.ndarray | Tensor | Source | TorchDataset | tuple) or is_frame(value)


def _array(where: str, value: Any) -> NDArray[Any]:
    """Numbers or names as an array; a memory-mapped array stays one."""
    if isinstance(value, Tensor):
        if value.layout != torch.strided or value.is_meta:
            raise FlowvaeError(f"{where}: {shown(value)}; must be a dense tensor with values.")
        value = value.detach().cpu()
        return (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    if is_column(value):
        value = value.astype(str) if value.dtype == "category" else value
        value = value.to_numpy()
    if is_frame(value):
        value = part_of_frame(where, value).x
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = np.array(value)
    if not isinstance(value, np.ndarray):
        raise FlowvaeError(f"{where}: {shown(value)}; must be an array.")
    return value.astype(str) if value.dtype.kind == "O" and is_text(value) else value


def _is_streamed(x: NDArray[Any] | Source | Tensor) -> bool:
    return isinstance(x, np.memmap) or not isinstance(x, np.ndarray)


def _update(digest: Any, values: NDArray[Any] | Source | Tensor) -> None:
    """Add values to a checksum: an array in its own type, little-endian, a source block by block."""
    if not isinstance(values, np.ndarray):
        for block in blocks(values):
            digest.update(np.ascontiguousarray(block.numpy()).tobytes())
        return
    digest.update(values.dtype.str.lstrip("<>=|").encode())
    for rows in array_blocks(values):
        digest.update(np.ascontiguousarray(rows, values.dtype.newbyteorder("<")).tobytes())


def _difference(one: DataSpec, other: InMemory) -> str:
    """Describe the first setting that differs from the training's, or else say that the values differ."""
    if type(one) is not type(other):
        return f"which were {shown(other)}"
    for name in [f.name for f in fields(other) if f.compare and f.name != "sha256"]:
        mine, theirs = getattr(one, name), getattr(other, name)
        if mine != theirs:
            return f"whose {name} was {shown(theirs)}, not {shown(mine)}"
    return "whose values or labels were different"


def _fitting(x: NDArray[Any] | Source | Tensor) -> str:
    """Likelihoods that fit the first values, in text form."""
    values = np.asarray(x[:1000]) if isinstance(x, np.ndarray) else first(x, 1000).numpy()
    if ((values == 0) | (values == 1)).all():
        return "'bernoulli'"
    if (values >= 0).all() and (values == np.round(values)).all():
        if values.dtype == np.uint8:
            return "'binomial:255'"
        return f"'binomial:{int(values.max())}', or 'poisson' or 'negative-binomial' if counts have no upper limit"
    return "'gaussian'"
