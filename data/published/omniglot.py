"""Omniglot: handwritten characters of fifty alphabets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from flowvae.core.errors import FlowvaeError, check_choice, shown_path
from flowvae.data.images.decoding import read_files
from flowvae.data.images.geometry import Geometry
from flowvae.data.images.image_data import Raw
from flowvae.data.images.named import NamedImages, random_part
from flowvae.data.preparation import Part
from flowvae.data.published.matlab import read_matlab

__all__ = ["Omniglot"]

SIDE = 28
VALID = 1345  # validation images, as in published results
ALPHABETS = 50
FILE = "chardata.mat"
ADDRESS = f"https://github.com/yburda/iwae/raw/master/datasets/OMNIGLOT/{FILE}"


@dataclass(frozen=True, kw_only=True)
class Omniglot(NamedImages, name="omniglot"):
    """Handwritten characters, 28×28 shades, strokes bright; labels are alphabets.

    | `version` | files | train, valid, test |
    | --- | --- | --- |
    | burda | chardata.mat of the IWAE paper, the images of most published results | 23,000, 1345, 8070 |
    | lake | the original 105×105 drawings, background and evaluation set, resized to 28×28 | 17,935, 1345, 13,180 |

    The validation images are drawn from train once, for every seed. Results on the two versions differ. No checksum of
    chardata.mat is published: only the shapes of its arrays are checked, and the identity of the data says so.

    Args:
        version: burda or lake.

    References:
        Lake, Salakhutdinov & Tenenbaum (2015), "Human-level concept learning through probabilistic program induction";
        Burda, Grosse & Salakhutdinov (2016), "Importance weighted autoencoders".
    """

    title: ClassVar[str] = "Omniglot characters, 28×28 shades"
    paper: ClassVar[str] = "Lake et al. 2015"
    native: ClassVar[tuple[int, int, int]] = (1, SIDE, SIDE)

    values: str = "dynamic"
    version: str = "burda"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "version", ("burda", "lake"))

    def read(self) -> Raw:
        parts, classes, done = self._burda() if self.version == "burda" else self._lake()
        train = parts["train"].x
        count = min(VALID, len(train) // 10)
        split = f"test as published, valid {count} of train drawn once by a fixed seed"
        if self.version == "burda":
            split += f"; {FILE} not verified, as no checksum of it is published"
        return Raw(parts, split, random_part(count, train, self.family), classes, done)

    def _burda(self) -> tuple[dict[str, Part], tuple[str, ...], str]:
        if self.download and not (self.root / FILE).exists():
            raise FlowvaeError(
                f"Omniglot.download = true: no checksum of {FILE} is published; download it yourself from {ADDRESS}."
            )
        pixels, alphabets = (SIDE * SIDE, 0), (ALPHABETS, 0)
        wanted = {"data": pixels, "testdata": pixels, "target": alphabets, "testtarget": alphabets}
        found = read_matlab(self.root, FILE, ADDRESS, wanted)
        parts = {}
        for split, prefix in (("train", ""), ("test", "test")):
            x = found[f"{prefix}data"].T.reshape(-1, SIDE, SIDE).transpose(0, 2, 1)  # stored column by column
            parts[split] = Part(x, found[f"{prefix}target"].argmax(0))
        return parts, (), "28 × 28 of Burda et al."

    def _lake(self) -> tuple[dict[str, Part], tuple[str, ...], str]:
        from torchvision import datasets

        names = "images_background.zip and images_evaluation.zip, unpacked too,"
        with self._torchvision(f"{names} into the folder omniglot-py (of https://github.com/brendenlake/omniglot)"):
            sets: dict[str, Any] = {
                split: datasets.Omniglot(self.root, background=split == "train", download=self.download)
                for split in ("train", "test")
            }
            files = {split: sorted(Path(one.target_folder).glob("*/*/*.png")) for split, one in sets.items()}
        for split, one in sets.items():
            if not files[split]:
                raise FlowvaeError(f"{shown_path(one.target_folder)}: holds no images; unpack its archive beside it.")
        classes = tuple(sorted({file.parts[-3] for found in files.values() for file in found}))
        smaller = Geometry(resize=(SIDE, SIDE))
        parts = {}
        for split, found in files.items():
            x = read_files(f"Omniglot, {split}", found, self.native, lambda x: smaller.resized(255 - x))
            parts[split] = Part(x, np.array([classes.index(file.parts[-3]) for file in found]))
        return parts, classes, "inverted: strokes are bright; 105 × 105 resized to 28 × 28, bilinear, antialiased"
