"""Data sets of three checked splits, with an identity that is reported with every result."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Size, Tensor

from flowvae.core.errors import FlowvaeError, check_bool, shown
from flowvae.core.parts import LikelihoodSpec, as_likelihood
from flowvae.core.registry import Spec
from flowvae.data.access import Flattened, blocks
from flowvae.data.batch import Batch, Source, redrawn
from flowvae.data.checks import check_shapes_agree, check_values
from flowvae.data.labels import is_text, number_names

__all__ = ["SPLITS", "DataIdentity", "DataSpec", "Dataset"]

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class DataIdentity:
    """Identity of the data that a result was measured on.

    Args:
        name: name of the data set.
        preprocessing: changes of the original values.
        split: origin and sizes of train, valid and test.
        sha256: checksum of the three splits as used, their conditions and their offset, 16 hexadecimal digits.
    """

    name: str
    preprocessing: str
    split: str
    sha256: str

    def as_dict(self) -> dict[str, str]:
        """The fields by name."""
        return asdict(self)


@dataclass(frozen=True)
class Dataset:
    """Three checked splits of data (N, *shape), all float32 or all float64.

    The event shape is (D,), (C, L) or (C, H, W). Data points of shape (C, H, W) with one or three channels are drawn as
    images.

    Args:
        train: training data; a tensor, or a `Source` if the data do not fit into memory.
        valid: validation data, for early stopping and the choice of settings.
        test: test data, for reported results.
        likelihood: likelihood of the values, as an object or in text form, such as "binomial:16".
        name: name of the data set.
        preprocessing: changes of the original values, in words.
        split: origin of the splits, in words.
        labels: class labels by split, shape (N,), for figures and conditional models: numbers, or names, which are
            numbered in sorted order. Splits without labels are left out.
        classes: names of the classes, indexed by the labels.
        conditions: covariates of a conditional model by split, shape (N, C), of the dtype of the data.
        log_evidence: function from data (N, *shape) to the exact log p(x) in nats, shape (N,), for a known model.
        factors: factors that simulated data were generated from, by split, shape (N, number of factors).
        offset: offset subtracted from the original data, float64, of the event shape.
        dequantized: whether the data are counts plus uniform noise on [0, 1): then the mean negative log-density of the
            noisy data bounds the code length of the counts.

    Raises:
        FlowvaeError: for an empty split, a wrong shape or type, NaN or infinities, values outside the support, or
            values whose density cannot be computed in their type.
    """

    train: Tensor | Source
    valid: Tensor | Source
    test: Tensor | Source
    likelihood: LikelihoodSpec
    name: str
    preprocessing: str
    split: str
    labels: dict[str, Tensor] | None = None
    log_evidence: Callable[[Tensor], Tensor] | None = None
    factors: dict[str, Tensor] | None = None
    offset: Tensor | None = None
    conditions: dict[str, Tensor] | None = None
    classes: tuple[str, ...] = ()
    dequantized: bool = False

    def __post_init__(self) -> None:
        for text in ("name", "preprocessing", "split"):
            value = getattr(self, text)
            if not isinstance(value, str) or len(value.splitlines()) > 1:
                raise FlowvaeError(f"Dataset.{text} = {shown(value)}: must be one line of text.")
        object.__setattr__(self, "likelihood", as_likelihood(f"{self.name}: likelihood", self.likelihood))
        for split in SPLITS:
            self._check(split, getattr(self, split))
        check_shapes_agree(self.name, {split: getattr(self, split) for split in SPLITS})
        self._read_labels()
        self._check_by_split("labels", self.labels, dims=1)
        self._check_by_split("factors", self.factors, dims=2)
        self._check_by_split("conditions", self.conditions, dims=2)
        self._check_classes()
        self._check_conditions()
        check_bool(self, "dequantized")
        if self.log_evidence is not None and not callable(self.log_evidence):
            raise FlowvaeError(
                f"{self.name}: log_evidence = {shown(self.log_evidence)}; must be a function of data (N, *shape), or "
                "None."
            )
        if self.offset is not None and not (
            isinstance(self.offset, Tensor)
            and self.offset.shape == self.shape
            and self.offset.dtype == torch.float64
            and self.offset.isfinite().all()
        ):
            raise FlowvaeError(
                f"{self.name}: offset = {shown(self.offset)}; must be finite numbers of float64 of shape "
                f"{tuple(self.shape)}, or None."
            )
        self.likelihood.check(self.name, {split: getattr(self, split) for split in SPLITS})

    def _read_labels(self) -> None:
        """Labels as tensors: arrays are converted, names are numbered."""
        labels: Any = self.labels
        if not isinstance(labels, dict):
            return
        if labels and all(is_text(values) for values in labels.values()):
            labels, classes = number_names(labels)
            object.__setattr__(self, "classes", classes)
        for split, values in labels.items():
            if isinstance(values, np.ndarray) and values.dtype.kind in "biuf":
                labels = {**labels, split: torch.from_numpy(values)}
        object.__setattr__(self, "labels", labels)

    def _check_by_split(self, what: str, parts: Any, dims: int) -> None:
        """Check that labels, factors or conditions are finite numbers by split, one row a data point."""
        if parts is None:
            return
        if not isinstance(parts, dict) or not set(parts) <= set(SPLITS):
            raise FlowvaeError(
                f"{self.name}: {what} = {shown(parts)}; must be tensors by split, such as {{'train': ...}}, or None."
            )
        for split, values in parts.items():
            rows = len(getattr(self, split))
            if (
                not isinstance(values, Tensor)
                or values.is_complex()
                or values.ndim != dims
                or len(values) != rows
                or not values.isfinite().all()
            ):
                given = shown(values)
                shape = f"({rows},)" if dims == 1 else f"({rows}, number of {what})"
                raise FlowvaeError(
                    f"{self.name}: {what} of {split}: {given}; must be a tensor of finite numbers of shape {shape}."
                )

    def _check_classes(self) -> None:
        names: Any = self.classes
        if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
            raise FlowvaeError(f"{self.name}: classes = {shown(names)}; must be a tuple of names.")
        for split, values in (self.labels or {}).items() if names else ():
            wrong = (values != values.round()) | (values < 0) | (values >= len(names))
            if wrong.any():
                raise FlowvaeError(
                    f"{self.name}: labels of {split}: {values[wrong][0].item():g} with {len(names)} classes; must be "
                    f"whole numbers from 0 to {len(names) - 1}."
                )

    def _check_conditions(self) -> None:
        if self.conditions is None:
            return
        if missing := [split for split in SPLITS if split not in self.conditions]:
            raise FlowvaeError(f"{self.name}: conditions lack {missing[0]}; every split needs them.")
        widths = {split: values.shape[1] for split, values in self.conditions.items()}
        kinds = {values.dtype for values in self.conditions.values()}
        if len(set(widths.values())) > 1 or 0 in widths.values() or kinds != {self.train.dtype}:
            found = ", ".join(f"{split} {widths[split]} of {self.conditions[split].dtype}" for split in SPLITS)
            raise FlowvaeError(
                f"{self.name}: conditions: {found}; must have the same number of columns in every split, one or more, "
                f"and the type of the data, {self.train.dtype}."
            )

    def _check(self, split: str, x: Any) -> None:
        where = f"{self.name}, {split}"
        if isinstance(x, Tensor):
            if x.layout != torch.strided or x.is_meta:
                raise FlowvaeError(f"{where}: {shown(x)}; must be a dense tensor with values.")
        elif not isinstance(x, Source):
            raise FlowvaeError(f"{where}: {shown(x)}; must be a dense tensor, such as torch.as_tensor(x), or a Source.")
        if not 2 <= len(x.shape) <= 4:
            raise FlowvaeError(
                f"{where}: shape {tuple(x.shape)}; must be (N, D), (N, C, L) or (N, C, H, W), the data points along "
                "the first axis."
            )
        if x.dtype != self.train.dtype or x.dtype not in (torch.float32, torch.float64):
            raise FlowvaeError(
                f"{where}: {x.dtype}; all splits must be of one floating-point type, the networks' (float32, unless "
                "torch.set_default_dtype made it float64). Subtract large offsets before .float() rounds them."
            )
        if not math.prod(x.shape):
            raise FlowvaeError(f"{where}: empty, shape {tuple(x.shape)}; every split needs data.")
        check_values(where, x, self.likelihood)

    @property
    def shape(self) -> Size:
        """The event shape: the shape of a data point."""
        return Size(self.train.shape[1:])

    @property
    def features(self) -> int:
        """The number of values of a data point."""
        return math.prod(self.shape)

    @property
    def class_count(self) -> int:
        """The number of classes.

        Raises:
            FlowvaeError: for data without labels, or with labels that are not class numbers.
        """
        if not self.labels:
            raise FlowvaeError(f"{self.name}: has no labels; give them by split, Dataset.labels.")
        values = torch.cat([split.double() for split in self.labels.values()])
        if ((values < 0) | (values != values.round())).any():
            raise FlowvaeError(f"{self.name}: labels such as {values.min().item():g}; classes must be numbered from 0.")
        return len(self.classes) or int(values.max()) + 1

    def batch(self, split: str) -> Batch:
        """The data points of a split with their conditions."""
        return Batch(getattr(self, split), None if self.conditions is None else self.conditions[split])

    def original(self, x: Tensor) -> Tensor:
        """Add the offset back to data (..., *shape), in float64; without an offset, return them unchanged."""
        return x if self.offset is None else x.double() + self.offset.to(x.device)

    def flat(self) -> Dataset:
        """The same data as rows (N, D), for models of vectors."""
        if len(self.shape) == 1:
            return self
        log_evidence, shape = self.log_evidence, self.shape
        return replace(
            self,
            train=_flat(self.train),
            valid=_flat(self.valid),
            test=_flat(self.test),
            preprocessing=f"{self.preprocessing}; flattened from {' × '.join(map(str, shape))}",
            log_evidence=None if log_evidence is None else lambda x: log_evidence(x.unflatten(-1, shape)),
            offset=None if self.offset is None else self.offset.flatten(),
        )

    @cached_property
    def identity(self) -> DataIdentity:
        """The identity of the data, which is reported with results."""
        digest = hashlib.sha256()
        kind = "<f8" if self.train.dtype == torch.float64 else "<f4"
        parts = [getattr(self, split) for split in SPLITS]
        parts += [] if self.conditions is None else [self.conditions[split] for split in SPLITS]
        for x in parts:
            digest.update(str(tuple(x.shape)).encode())
            for block in blocks(x):
                digest.update(np.ascontiguousarray(block.numpy(force=True), dtype=kind).tobytes())
        if self.offset is not None:
            digest.update(self.offset.numpy(force=True).astype("<f8").tobytes())
        if redrawn(self.train, 0) is not self.train:  # training sees values other than these
            digest.update(self.preprocessing.encode())
        sizes = ", ".join(f"{split} {len(getattr(self, split))}" for split in SPLITS)
        held = self.preprocessing + ("; in float64" if self.train.dtype == torch.float64 else "")
        return DataIdentity(self.name, held, f"{self.split}: {sizes}", digest.hexdigest()[:16])


class DataSpec(Spec, ABC, kind="data"):
    """Settings of a data set."""

    @abstractmethod
    def load(self, seed: int) -> Dataset:
        """Load the data; `seed` determines all random choices.

        Raises:
            FlowvaeError: if files are missing, or values are outside the support of the likelihood.
        """

    def given(self, value: Any) -> DataSpec:
        """Check data that are passed again to a stored run; only their paths may differ.

        Raises:
            FlowvaeError: for other data.
        """
        if type(value) is type(self) and value.paths.keys() == self.paths.keys():
            moved = replace(value, **self.paths)  # type: ignore[type-var]
            if moved == self:
                return value
        raise FlowvaeError(
            f"data = {shown(value)}: not those of the training, {shown(self)}, which are loaded again; leave data out."
        )

    @property
    def paths(self) -> dict[str, Path]:
        """The settings that are paths, by name; they are specific to a machine."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        return {name: value for name, value in values.items() if isinstance(value, Path)}

    @property
    def shape(self) -> Size:
        """The event shape; loads the data if the settings do not determine it."""
        return self.load(0).shape

    @property
    def features(self) -> int:
        """The number of values of a data point."""
        return math.prod(self.shape)


def _flat(x: Tensor | Source) -> Tensor | Source:
    return x.flatten(1) if isinstance(x, Tensor) else Flattened(x)
