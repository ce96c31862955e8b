"""Data in memory: three checked splits with an identity that goes into every figure."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowvae.core.errors import FlowvaeError, plain_number, shown
from flowvae.data.likelihoods import LikelihoodSpec, parse_likelihood

__all__ = ["SPLITS", "DataIdentity", "DataSpec", "Dataset", "check_columns_agree", "check_values"]

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class DataIdentity:
    """Which data a figure was measured on.

    Args:
        name: name of the data set.
        preprocessing: what was done to the original values.
        split: how train, valid and test came about, with their sizes.
        sha256: of the three splits as they were used, and of their offset, 16 digits.
    """

    name: str
    preprocessing: str
    split: str
    sha256: str

    def as_dict(self) -> dict[str, str]:
        """The four texts by name."""
        return asdict(self)


@dataclass(frozen=True)
class Dataset:
    """Three splits of shape (N, D), all of float32 or all of float64, checked.

    Args:
        train: what is fitted.
        valid: what stops the training and chooses settings.
        test: what is reported.
        likelihood: what the numbers are, as an object or in its text form.
        name: name of the data set.
        preprocessing: what was done to the original values.
        split: how the splits came about.
        labels: class labels by split, shape (N,), for colours in figures only.
        image_shape: (height, width), where the D numbers are an image.
        log_evidence: exact log p(x) in nats of data (N, D), where the data come from a known model.
        factors: what a simulated datum was made from, by split, shape (N, number of factors).
        offset: what was subtracted from the columns of the original data, float64 of shape (D,).

    Raises:
        FlowvaeError: for an empty split, other shapes or types, NaN or infinities, values outside the support or whose
            density cannot be computed in their type.
    """

    train: Tensor
    valid: Tensor
    test: Tensor
    likelihood: LikelihoodSpec
    name: str
    preprocessing: str
    split: str
    labels: dict[str, Tensor] | None = None
    image_shape: tuple[int, int] | None = None
    log_evidence: Callable[[Tensor], Tensor] | None = None
    factors: dict[str, Tensor] | None = None
    offset: Tensor | None = None

    def __post_init__(self) -> None:
        for text in ("name", "preprocessing", "split"):
            value = getattr(self, text)
            if not isinstance(value, str) or len(value.splitlines()) > 1:
                raise FlowvaeError(f"Dataset.{text} = {shown(value)}: must be one line of text.")
        if isinstance(self.likelihood, str):
            object.__setattr__(self, "likelihood", parse_likelihood(self.likelihood))
        if not isinstance(self.likelihood, LikelihoodSpec):
            raise FlowvaeError(
                f"{self.name}: likelihood = {shown(self.likelihood)}; must be Bernoulli(), Binomial(total), Gaussian() "
                "or their text form."
            )
        for split in SPLITS:
            self._check(split, getattr(self, split))
        check_columns_agree(self.name, {split: getattr(self, split) for split in SPLITS})
        self._check_image_shape()
        self._check_by_split("labels", self.labels, dims=1)
        self._check_by_split("factors", self.factors, dims=2)
        if self.log_evidence is not None and not callable(self.log_evidence):
            raise FlowvaeError(
                f"{self.name}: log_evidence = {shown(self.log_evidence)}; must be a function of data (N, D), or None."
            )
        if self.offset is not None and not (
            isinstance(self.offset, Tensor)
            and self.offset.shape == (self.features,)
            and self.offset.dtype == torch.float64
            and self.offset.isfinite().all()
        ):
            raise FlowvaeError(
                f"{self.name}: offset = {shown(self.offset)}; must be {self.features} finite numbers of float64, one a "
                "column, or None."
            )
        self.likelihood.check(self.name, {split: getattr(self, split) for split in SPLITS})

    def _check_image_shape(self) -> None:
        shape: Any = self.image_shape
        if shape is None:
            return
        if isinstance(shape, list | tuple | torch.Size):
            shape = tuple(plain_number(side) for side in shape)
            object.__setattr__(self, "image_shape", shape)
        if not isinstance(shape, tuple) or len(shape) != 2 or any(type(side) is not int or side < 1 for side in shape):
            raise FlowvaeError(f"{self.name}: image_shape = {shown(shape)}; must be (height, width), or None.")
        if math.prod(shape) != self.features:
            raise FlowvaeError(
                f"{self.name}: image_shape = {shape} for {self.features} columns; height times width must be their "
                "number."
            )

    def _check_by_split(self, what: str, parts: Any, dims: int) -> None:
        """Labels or factors: real numbers by split, one row a datum."""
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
                shape = f"({rows},)" if dims == 1 else f"({rows}, number of factors)"
                raise FlowvaeError(
                    f"{self.name}: {what} of {split}: {given}; must be a tensor of finite numbers of shape {shape}."
                )

    def _check(self, split: str, x: Tensor) -> None:
        where = f"{self.name}, {split}"
        if not isinstance(x, Tensor) or x.layout != torch.strided or x.is_meta:
            raise FlowvaeError(f"{where}: {shown(x)}; must be a dense tensor with values, such as torch.as_tensor(x).")
        if x.ndim != 2:
            raise FlowvaeError(f"{where}: shape {tuple(x.shape)}; must be (N, D), one row a datum.")
        if x.dtype != self.train.dtype or x.dtype not in (torch.float32, torch.float64):
            raise FlowvaeError(
                f"{where}: {x.dtype}; all splits must be of one floating-point type, the networks' (float32, unless "
                "torch.set_default_dtype made it float64). Subtract large offsets before .float() rounds them."
            )
        if not x.numel():
            raise FlowvaeError(f"{where}: empty, shape {tuple(x.shape)}; every split needs data.")
        check_values(where, x, self.likelihood)

    @property
    def features(self) -> int:
        """The number D of values of a datum."""
        return self.train.shape[1]

    def original(self, x: Tensor) -> Tensor:
        """Data (..., D) in the units of the file: float64 where columns had an offset, else as they are."""
        return x if self.offset is None else x.double() + self.offset.to(x.device)

    @property
    def identity(self) -> DataIdentity:
        """What a figure says about the data it was measured on."""
        digest = hashlib.sha256()
        for split in SPLITS:
            x: Tensor = getattr(self, split)
            digest.update(str(tuple(x.shape)).encode())
            kind = "<f8" if x.dtype == torch.float64 else "<f4"
            digest.update(np.ascontiguousarray(x.numpy(force=True), dtype=kind).tobytes())
        if self.offset is not None:
            digest.update(self.offset.numpy(force=True).astype("<f8").tobytes())
        sizes = ", ".join(f"{split} {len(getattr(self, split))}" for split in SPLITS)
        held = self.preprocessing + ("; in float64" if self.train.dtype == torch.float64 else "")
        return DataIdentity(self.name, held, f"{self.split}: {sizes}", digest.hexdigest()[:16])


class DataSpec(ABC):
    """Settings of a data set."""

    @abstractmethod
    def load(self, seed: int) -> Dataset:
        """The data; `seed` decides whatever is drawn at random.

        Raises:
            FlowvaeError: if files are missing or data are not what the likelihood needs.
        """

    @property
    def features(self) -> int:
        """The number D of values of a datum; counted on the data, where their kind alone does not tell."""
        return self.load(0).features


def check_values(where: str, x: Tensor, likelihood: LikelihoodSpec) -> None:
    """Refuse NaN, infinities and values outside the support, in rows (N, D); names the first one and its place.

    Raises:
        FlowvaeError: for such a value.
    """
    _report(where, x, ~torch.isfinite(x), "finite numbers", "Leave these rows out, or fill in what is missing.")
    bad = likelihood.violations(x)
    _report(where, x, bad, f"{likelihood.support} ({likelihood})", _what_they_are(x) if bad.any() else "")


def check_columns_agree(name: str, splits: Mapping[str, Any]) -> None:
    """Refuse splits (N, D) that differ in D.

    Raises:
        FlowvaeError: with their numbers of columns.
    """
    widths = {split: x.shape[1] for split, x in splits.items()}
    if len(set(widths.values())) > 1:
        raise FlowvaeError(f"{name}: the splits have different numbers of columns: {widths}.")


def _report(where: str, x: Tensor, bad: Tensor, rule: str, remedy: str) -> None:
    if bad.any():
        row, column = (int(i) for i in bad.nonzero()[0])
        count = int(bad.sum())
        raise FlowvaeError(
            f"{where}: value {x[row, column].item():g} at row {row}, column {column} "
            f"({count} such value{'s' * (count > 1)}); must be {rule}. {remedy}"
        )


def _what_they_are(x: Tensor) -> str:
    """Which likelihood values (N, D) that are outside the support might have meant."""
    low, high = x.min().item(), x.max().item()
    if high > 1 and ((x == 0) | (x == high)).all():
        return f"All are 0 or {high:g}: divide by {high:g} for bernoulli."
    if low >= 0 and (x == x.round()).all():
        return f"Counts are binomial:TOTAL, with a TOTAL of {high:g} or more here."
    if low >= 0 and high <= 1:
        return "Shades from 0 to 1 become bits by a threshold, such as x > 0.5; as they are, they are gaussian."
    return "Real numbers are gaussian."
