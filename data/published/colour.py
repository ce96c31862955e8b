"""Colour images of 32×32: SVHN and CIFAR-10."""

from __future__ import annotations

import string
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from flowvae.data.images.image_data import Raw
from flowvae.data.images.named import NamedImages, last
from flowvae.data.preparation import Part

__all__ = ["CIFAR10", "SVHN"]

SHARE = 10  # one in so many training images is held out
HELD_OUT = "test as published, valid the last tenth of train"


@dataclass(frozen=True, kw_only=True)
class SVHN(NamedImages, name="svhn"):
    """House numbers, 32×32 in colour, cropped to digits: 65,932 training, 7325 validation and 26,032 test images.

    The last tenth of the training file is the validation split, for every seed.

    References:
        Netzer et al. (2011), "Reading digits in natural images with unsupervised feature learning".
    """

    title: ClassVar[str] = "SVHN house numbers, 32×32 in colour"
    paper: ClassVar[str] = "Netzer et al. 2011"
    native: ClassVar[tuple[int, int, int]] = (3, 32, 32)

    def read(self) -> Raw:
        from torchvision import datasets

        with self._torchvision("train_32x32.mat and test_32x32.mat (http://ufldl.stanford.edu/housenumbers)"):
            sets = {s: datasets.SVHN(self.root, split=s, download=self.download) for s in ("train", "test")}
        parts = {s: Part(one.data, np.asarray(one.labels)) for s, one in sets.items()}
        count = len(parts["train"].x)
        return Raw(parts, HELD_OUT, last(count // SHARE, parts["train"].x), classes=tuple(string.digits))


@dataclass(frozen=True, kw_only=True)
class CIFAR10(NamedImages, name="cifar10"):
    """Photographs of ten classes, 32×32 in colour: 45,000 training, 5000 validation and 10,000 test images.

    The last tenth of the training batches is the validation split, for every seed.

    References:
        Krizhevsky (2009), "Learning multiple layers of features from tiny images".
    """

    title: ClassVar[str] = "CIFAR-10 photographs, 32×32 in colour"
    paper: ClassVar[str] = "Krizhevsky 2009"
    native: ClassVar[tuple[int, int, int]] = (3, 32, 32)

    def read(self) -> Raw:
        from torchvision import datasets

        files = "the folder cifar-10-batches-py (of https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz)"
        with self._torchvision(files):
            sets = {
                s: datasets.CIFAR10(self.root, train=s == "train", download=self.download) for s in ("train", "test")
            }
        parts = {s: Part(one.data.transpose(0, 3, 1, 2), np.asarray(one.targets)) for s, one in sets.items()}
        count = len(parts["train"].x)
        return Raw(parts, HELD_OUT, last(count // SHARE, parts["train"].x), classes=tuple(sets["train"].classes))
