"""scikit-learn's handwritten digits: 1797 images of 8×8, which come with the library."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Size

from flowvae.core.parts import LikelihoodSpec, as_likelihood, parse_likelihood
from flowvae.data.dataset import Dataset, DataSpec

__all__ = ["Digits"]


@dataclass(frozen=True)
class Digits(DataSpec, name="digits"):
    """8×8 digits with grey levels 0..16 as binomial counts; 1257 train, 270 valid, 270 test.

    Data points are images of shape (1, 8, 8). They are ordered by writer in the source, so they are shuffled,
    stratified by label. The test images are the same for every seed, so no seed uses them for validation. The seed
    divides the others into train and valid.

    Args:
        likelihood: likelihood of the values, in text form, such as pixelcnn:16; none: binomial:16.
    """

    title: ClassVar[str] = "scikit-learn digits, 8×8 grey levels, 1797 images"

    likelihood: LikelihoodSpec | None = field(default=None, metadata={"omit_default": True})

    def __post_init__(self) -> None:
        if self.likelihood is not None:
            object.__setattr__(self, "likelihood", as_likelihood("Digits.likelihood", self.likelihood))

    @property
    def shape(self) -> Size:
        return Size((1, 8, 8))

    def load(self, seed: int) -> Dataset:
        # imported here: scikit-learn takes a second to import, and few parts of the program need it
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        images, labels = load_digits(return_X_y=True)
        x = torch.tensor(images, dtype=torch.get_default_dtype()).reshape(-1, *self.shape)
        y = torch.tensor(labels)
        rest, test = train_test_split(range(len(x)), test_size=270, stratify=y, random_state=0)
        train, valid = train_test_split(rest, test_size=270, stratify=y[rest], random_state=seed)
        return Dataset(
            x[train],
            x[valid],
            x[test],
            likelihood=self.likelihood or parse_likelihood("binomial:16"),
            name="digits",
            preprocessing="none (grey levels 0..16 as counts)",
            split=f"stratified by label, test fixed, valid by seed {seed}",
            labels={"train": y[train], "valid": y[valid], "test": y[test]},
        )
