"""Image data sets: preprocessing of images from files to a checked data set."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flowvae.core.errors import check_int
from flowvae.core.parts import LikelihoodSpec
from flowvae.core.seeds import derive
from flowvae.data.access import to_tensor
from flowvae.data.batch import Source
from flowvae.data.dataset import SPLITS, Dataset, DataSpec
from flowvae.data.images.intensities import are_fractions, as_intensities, check_counts
from flowvae.data.images.pixels import Pixels
from flowvae.data.images.preprocessing import Preprocessing
from flowvae.data.preparation import Part, draw_missing, prepare

__all__ = ["ImageData", "Raw", "prepare_images", "prepare_values"]

LARGE = 2**30  # bytes of floating-point values; larger splits are kept as intensities


@dataclass(frozen=True)
class Raw:
    """Contents of the files of a data set.

    Args:
        parts: intensities 0..255 by split, (N, H, W) or (N, C, H, W), bytes or floating-point numbers; with labels.
        split: origin of the splits, in words.
        valid: positions (M,) of the validation images in train; None: missing splits are drawn by the run's seed.
        classes: names of the classes.
        done: earlier changes of the images, in words.
        sized: whether the images have been resized already.
        name: name of the data set; empty: the name of its family.
    """

    parts: Mapping[str, Part]
    split: str
    valid: Tensor | None = None
    classes: tuple[str, ...] = ()
    done: str = ""
    sized: bool = False
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class ImageData(Preprocessing, DataSpec):
    """An image data set with its preprocessing.

    Args:
        likelihood: likelihood of the values, in text form; none: the default for `values`.
        limit: largest number of images in a split, for trials; they are evenly spaced in the files. None: all.
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
        """Read the files.

        Raises:
            FlowvaeError: for missing or damaged files.
        """

    @property
    def where(self) -> str:
        """Name of the data in messages."""
        return self.family

    def load(self, seed: int) -> Dataset:
        likelihood = self.decide_likelihood(self.likelihood)
        raw = self.read()
        name = raw.name or self.family
        return prepare_images(self.where, raw, self, likelihood, seed, name=name, limit=self.limit)


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
    """Preprocess images; missing splits are drawn from train.

    Images whose values are redrawn in every epoch, and splits that would take more than a gigabyte as floating-point
    numbers, stay intensities and are converted batch by batch.

    Args:
        where: name of the data in messages.
        raw: contents of the files.
        how: the preprocessing.
        likelihood: likelihood of the values.
        seed: random seed for the draw of missing splits.
        name: name of the data set.
        limit: largest number of images in a split; None: all.

    Raises:
        FlowvaeError: for values that are not intensities, images that are smaller than the crop, and the errors of
            `prepare`.
    """
    given = {s: raw.parts[s] for s in SPLITS if s in raw.parts}
    pixels: dict[str, Pixels] = {}
    fractions = all(are_fractions(part.x) for part in given.values())
    for s, part in given.items():
        x = as_intensities(f"{where}, {s}", part.x, fractions)
        x = how.resized(x) if isinstance(x, Tensor) and x.ndim == 4 and not raw.sized else x
        if how.dequantized and how.levels == 256:
            check_counts(f"{where}, {s}", x)
        pixels[s] = Pixels(x, how, derive(0, how.values, s))
    shape = pixels["train"].shape
    how.warn_of_colours(where, shape[1] if len(shape) == 4 else 1)
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
    """Prepare data without preprocessing, or as images: see `prepare` and `prepare_images`.

    Args:
        where: name of the data in messages.
        parts: parts by split.
        how: the data spec, an `OptionalPreprocessing` with a likelihood.
        seed: random seed for the draw of missing splits.
        name: name of the data set.
        split: origin of the given splits, in words.
        classes: names of the classes.

    Raises:
        FlowvaeError: as `prepare` and `prepare_images` do.
    """
    if not how.is_image:
        return prepare(where, parts, how.likelihood, seed, name=name, split=split, classes=classes)
    likelihood = how.decide_likelihood(how.likelihood)
    return prepare_images(where, Raw(parts, split, classes=classes), how, likelihood, seed, name=name)


def _rows(part: Part, index: Tensor) -> Part:
    """A part with the labels and conditions of a subset of its data points; x is unchanged."""
    return Part(part.x, *(None if rows is None else rows[index.numpy()] for rows in (part.labels, part.conditions)))


def _held(where: str, split: str, pixels: Pixels) -> Tensor | Source:
    """Values as a tensor; or the images themselves, if they are large or redrawn."""
    large = pixels.dtype.itemsize * pixels.shape.numel() > LARGE
    if large or (split == "train" and pixels.how.is_redrawn) or not isinstance(pixels.intensities, Tensor):
        return pixels
    return to_tensor(pixels, where)
