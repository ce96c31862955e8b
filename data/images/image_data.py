"""Image data sets: from what their files hold to a checked data set, by one preprocessing."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Size, Tensor

from flowvae.core.errors import FlowvaeError, check_bool, check_int, one_line, shown_path
from flowvae.core.parts import LikelihoodSpec
from flowvae.core.seeds import derive
from flowvae.data.access import blocks, to_tensor
from flowvae.data.batch import Source
from flowvae.data.dataset import SPLITS, Dataset, DataSpec
from flowvae.data.files.reading import data_path
from flowvae.data.images.pixels import Pixels
from flowvae.data.images.preprocessing import Preprocessing
from flowvae.data.preparation import Part, as_event_shape, draw_missing, prepare
from flowvae.data.sources import MappedArray

__all__ = ["ImageData", "NamedImages", "Raw", "data_root", "last", "prepare_images", "prepare_values", "random_part"]

INTENSITIES = "intensities are whole numbers 0..255, or in memory also fractions 0..1"
LARGE = 2**30  # bytes of floating-point values; larger training data are kept as they are stored


@dataclass(frozen=True)
class Raw:
    """What the files of a data set hold.

    Args:
        parts: intensities 0..255 by split, (N, H, W) or (N, C, H, W), bytes or floating-point numbers; with labels.
        split: how the splits came about, in words.
        valid: which images of train are the validation images, (M,); None: what is missing is drawn by the run's seed.
        classes: names of the classes.
        done: what was done to the images before, in words.
        sized: whether the images have been resized already.
    """

    parts: Mapping[str, Part]
    split: str
    valid: Tensor | None = None
    classes: tuple[str, ...] = ()
    done: str = ""
    sized: bool = False


@dataclass(frozen=True, kw_only=True)
class ImageData(Preprocessing, DataSpec):
    """An image data set with its preprocessing.

    Args:
        likelihood: what the values are, in text form; by default the one of `values`.
        limit: largest number of images in a split, for a trial, evenly spaced in the order of the files; None: all.
    """

    likelihood: LikelihoodSpec | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.keep_likelihood()
        if self.limit is not None:
            check_int(self, "limit")

    @abstractmethod
    def read(self) -> Raw:
        """What the files hold.

        Raises:
            FlowvaeError: for missing or damaged files.
        """

    @property
    def where(self) -> str:
        """What names the data in messages."""
        return self.family

    def load(self, seed: int) -> Dataset:
        likelihood = self.decide_likelihood(self.likelihood)
        return prepare_images(self.where, self.read(), self, likelihood, seed, name=self.family, limit=self.limit)


@dataclass(frozen=True, kw_only=True)
class NamedImages(ImageData):
    """An image data set whose files lie in a folder of data sets.

    Args:
        root: the folder; by default `$FLOWVAE_DATA`, else `~/.cache/flowvae/data`.
        download: whether to download files that are missing.

    Attributes:
        native: shape of an image before preprocessing.
    """

    root: Path = field(default_factory=lambda: data_root())
    download: bool = False

    native: ClassVar[tuple[int, int, int]]

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "root", data_path("data.root", self.root, "the path of a folder"))
        check_bool(self, "download")
        if os.path.isfile(self.root):
            raise FlowvaeError(f"data.root = {shown_path(self.root)}: is not a folder; name the one that it is in.")

    @property
    def shape(self) -> Size:
        return self.event_shape(self.native)

    @contextmanager
    def _torchvision(self, files: str) -> Iterator[None]:
        """Torchvision's errors about missing, damaged and other files as one line.

        Args:
            files: those that are needed, in words.
        """
        try:
            with redirect_stdout(StringIO()):
                yield
        except FlowvaeError:
            raise
        except Exception as error:  # damaged files raise nearly every type
            reason = one_line(error, 160).partition(" You can use")[0].rstrip(".")
            ask = "" if self.download else ", or let torchvision download them: --data.download"
            raise FlowvaeError(
                f"data.root = {shown_path(self.root)}: no {self.family} there, or damaged ({reason}); put there {files}"
                f"{ask}."
            ) from None


def data_root() -> Path:
    """`$FLOWVAE_DATA`, else `flowvae/data` in `$XDG_CACHE_HOME`, else `~/.cache/flowvae/data`."""
    own = os.environ.get("FLOWVAE_DATA")
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return data_path("FLOWVAE_DATA", own or f"{cache}/flowvae/data", "the path of a folder")


def last(count: int, train: Any) -> Tensor:
    """The numbers of the last images of train."""
    return torch.arange(len(train) - count, len(train))


def random_part(count: int, train: Any, name: str) -> Tensor:
    """The numbers of so many images of train, drawn by a seed of the data set's own."""
    generator = torch.Generator().manual_seed(derive(0, name, "split"))
    return torch.randperm(len(train), generator=generator)[:count]


def prepare_images(
    where: str,
    raw: Raw,
    how: Preprocessing,
    likelihood: LikelihoodSpec,
    seed: int,
    *,
    name: str,
    limit: int | None = None,
) -> Dataset:
    """Preprocess images; splits that are missing are drawn from train.

    Values that are drawn anew in every epoch, and images that would take more than a gigabyte as floating-point
    numbers, stay as they are and become values batch by batch.

    Args:
        where: what names the data in messages.
        raw: what the files hold.
        how: the preprocessing.
        likelihood: what the values are.
        seed: decides which images are drawn for splits that are missing.
        name: of the data set.
        limit: largest number of images in a split; None: all.

    Raises:
        FlowvaeError: for values that are no intensities, images that are smaller than the crop, and as `prepare` does.
    """
    given = {s: raw.parts[s] for s in SPLITS if s in raw.parts}
    pixels = {}
    fractions = all(_are_fractions(part.x) for part in given.values())
    for s, part in given.items():
        x = _intensities(f"{where}, {s}", part.x, fractions)
        x = how.resized(x) if isinstance(x, Tensor) and x.ndim == 4 and not raw.sized else x
        if how.dequantized and how.levels == 256:
            _check_counts(f"{where}, {s}", x)
        pixels[s] = Pixels(x, how, derive(0, how.values, s))
    split, count = raw.split, len(pixels["train"])
    if raw.valid is not None:
        rest = torch.ones(count, dtype=torch.bool)
        rest[raw.valid] = False
        indices = {"train": rest.nonzero().flatten(), "valid": raw.valid}
    else:
        drawn = [s for s in ("valid", "test") if s not in given]
        indices = draw_missing(where, count, drawn, seed)
        split = f"{', '.join(drawn)} drawn from train by seed {seed}" if drawn else split
    parts = given | {s: _rows(given["train"], index) for s, index in indices.items()}
    pixels |= {s: pixels["train"].part(index) for s, index in indices.items()}
    if limit is not None:
        split += f", at most {limit} of each, evenly spaced"
        few = {s: torch.arange(limit) * len(x) // limit for s, x in pixels.items() if len(x) > limit}
        parts |= {s: _rows(parts[s], index) for s, index in few.items()}
        pixels |= {s: pixels[s].part(index) for s, index in few.items()}
    return prepare(
        where,
        {s: Part(_held(where, s, pixels[s]), part.labels, part.conditions) for s, part in parts.items()},
        likelihood,
        seed,
        name=name,
        split=split,
        preprocessing="; ".join(filter(None, (raw.done, how.text))),
        classes=raw.classes,
        dequantized=how.dequantized,
    )


def prepare_values(
    where: str,
    parts: Mapping[str, Part],
    how: Any,
    seed: int,
    *,
    name: str,
    split: str = "as given",
    classes: tuple[str, ...] = (),
) -> Dataset:
    """Data as they are, or preprocessed as images: see `prepare` and `prepare_images`.

    Args:
        where: what names the data in messages.
        parts: by split.
        how: the data spec, an `OptionalPreprocessing` with a likelihood.
        seed: decides which data points are drawn for splits that are missing.
        name: of the data set.
        split: how the splits that are given came about.
        classes: names of the classes.
    """
    if not how.is_image:
        return prepare(where, parts, how.likelihood, seed, name=name, split=split, classes=classes)
    likelihood = how.decide_likelihood(how.likelihood)
    return prepare_images(where, Raw(parts, split, classes=classes), how, likelihood, seed, name=name)


def _rows(part: Part, index: Tensor) -> Part:
    """A part with the labels and conditions of some of its data points."""
    return Part(part.x, *(None if rows is None else rows[index.numpy()] for rows in (part.labels, part.conditions)))


def _held(where: str, split: str, pixels: Pixels) -> Tensor | Source:
    """Values as a tensor, or the images, where they are large or drawn anew."""
    large = pixels.dtype.itemsize * pixels.shape.numel() > LARGE
    if large or (split == "train" and pixels.how.is_redrawn) or not isinstance(pixels.intensities, Tensor):
        return pixels
    return to_tensor(pixels, where)


def _are_fractions(x: NDArray[Any] | Tensor | Source) -> bool:
    """Whether an array in memory holds floating-point numbers from 0 to 1."""
    if not isinstance(x, np.ndarray) or isinstance(x, np.memmap):
        return False
    return x.dtype.kind == "f" and bool(x.min() >= 0 and x.max() <= 1)


def _intensities(where: str, x: NDArray[Any] | Tensor | Source, fractions: bool) -> Tensor | Source:
    """Images as bytes, or as floating-point numbers where they are no whole numbers; a source as it is.

    Args:
        where: what names the images in messages.
        x: the images.
        fractions: whether 1 is the largest intensity of all splits, instead of 255.

    Raises:
        FlowvaeError: for other numbers than 0..255, or shades 0..1.
    """
    if isinstance(x, np.ndarray) and not isinstance(x, np.memmap):
        return torch.from_numpy(_bytes(where, as_event_shape(where, x), fractions))  # type: ignore[arg-type]
    source = MappedArray(as_event_shape(where, x)) if isinstance(x, np.memmap) else x  # type: ignore[arg-type]
    bounds = [(block.min().item(), block.max().item()) for block in blocks(source)]
    _check_range(where, min(low for low, _ in bounds), max(high for _, high in bounds))
    return source


def _bytes(where: str, x: NDArray[Any], fractions: bool) -> NDArray[Any]:
    low, high = x.min().item(), x.max().item()
    if fractions:
        x = x.astype(np.float64) * 255
        whole = np.round(x)
        return whole.astype(np.uint8) if np.abs(x - whole).max() < 1e-3 else x.astype(np.float32)
    _check_range(where, low, high)
    if x.dtype.kind == "f" and (x != np.round(x)).any():
        raise FlowvaeError(f"{where}: fractions from {low:g} to {high:g}; {INTENSITIES}.")
    return np.ascontiguousarray(x, np.uint8)


def _check_counts(where: str, x: Tensor | Source) -> None:
    """Refuse fractions: without noise of their own they have no code length, which noise on [0, 1) would bound.

    Raises:
        FlowvaeError: for such intensities.
    """
    for block in blocks(x) if x.dtype.is_floating_point else ():
        fraction = block != block.round()
        if fraction.any():
            raise FlowvaeError(
                f"{where}: value {block[fraction][0].item():g} with values = 'dequantized'; must be whole numbers from "
                "0 to 255, or give levels, such as 128, which rounds down."
            )


def _check_range(where: str, low: float, high: float) -> None:
    if not (low >= 0 and high <= 255):
        raise FlowvaeError(f"{where}: values from {low:g} to {high:g}; {INTENSITIES}.")
    if high <= 1:
        raise FlowvaeError(
            f"{where}: values from {low:g} to {high:g}; {INTENSITIES}. Bits need no preprocessing: give the likelihood "
            "bernoulli and leave values out."
        )
