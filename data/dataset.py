"""Data in memory: three checked splits with an identity that goes into every figure."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from flowvae.data.likelihoods import LikelihoodSpec
from flowvae.errors import FlowvaeError

__all__ = ["DataIdentity", "DataSpec", "Dataset", "check_values"]

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class DataIdentity:
    """Which data a figure was measured on.

    Args:
        name: name of the data set.
        preprocessing: what was done to the original values.
        split: how train, valid and test came about, with their sizes.
        sha256: of the three splits as they were used, 16 digits.
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
    """Three splits of shape (N, D), of one floating-point type, checked.

    Args:
        train: what is fitted.
        valid: what stops the training and chooses settings.
        test: what is reported.
        likelihood: what the numbers are.
        name: name of the data set.
        preprocessing: what was done to the original values.
        split: how the splits came about.
        labels: class labels of each split, for colours in figures only.
        image_shape: (height, width), where the D numbers are an image.
        log_evidence: exact log p(x) in nats of data (N, D), where the data come from a known model.
        factors: what a simulated datum was made from, by split, shape (N, number of factors).

    Raises:
        FlowvaeError: for an empty split, other shapes or types, NaN or infinities, values outside the support.
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

    def __post_init__(self) -> None:
        for split in SPLITS:
            self._check(split, getattr(self, split))
        widths = {split: getattr(self, split).shape[1] for split in SPLITS}
        if len(set(widths.values())) > 1:
            raise FlowvaeError(f"{self.name}: the splits have different numbers of columns: {widths}.")
        if self.image_shape and math.prod(self.image_shape) != self.features:
            raise FlowvaeError(
                f"{self.name}: image_shape = {self.image_shape} for {self.features} columns; height times width must "
                "be their number."
            )

    def _check(self, split: str, x: Tensor) -> None:
        where = f"{self.name}, {split}"
        if x.ndim != 2:
            raise FlowvaeError(f"{where}: shape {tuple(x.shape)}; must be (N, D), one row a datum.")
        if x.dtype != self.train.dtype or not x.is_floating_point():
            raise FlowvaeError(
                f"{where}: {x.dtype}; all splits must be of one floating-point type, the networks' (float32, unless "
                "that was changed); .float() makes it."
            )
        if not x.numel():
            raise FlowvaeError(f"{where}: empty, shape {tuple(x.shape)}; every split needs data.")
        check_values(where, x, self.likelihood)

    @property
    def features(self) -> int:
        """The number D of values of a datum."""
        return self.train.shape[1]

    @property
    def identity(self) -> DataIdentity:
        """What a figure says about the data it was measured on."""
        digest = hashlib.sha256()
        for split in SPLITS:
            x: Tensor = getattr(self, split)
            digest.update(str(tuple(x.shape)).encode())
            digest.update(np.ascontiguousarray(x.numpy(force=True), dtype="<f4").tobytes())
        sizes = ", ".join(f"{split} {len(getattr(self, split))}" for split in SPLITS)
        return DataIdentity(self.name, self.preprocessing, f"{self.split}: {sizes}", digest.hexdigest()[:16])


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
