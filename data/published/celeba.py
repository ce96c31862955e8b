"""CelebA: photographs of faces."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from flowvae.core.errors import FlowvaeError, check_int, nearest
from flowvae.data.images.decoding import read_files
from flowvae.data.images.image_data import Raw
from flowvae.data.images.named import NamedImages
from flowvae.data.preparation import Part

__all__ = ["CelebA"]

HEIGHT, WIDTH = 218, 178
SPLITS = {"train": 0, "valid": 1, "test": 2}  # numbers in the file of the partition


@dataclass(frozen=True, kw_only=True)
class CelebA(NamedImages, name="celeba"):
    """Aligned faces, by default 64×64 in colour: 162,770 training, 19,867 validation and 19,962 test images.

    The centre of `face` × `face` is cut out of the 178×218 photograph first; then `resize` and the other settings
    apply. Images are kept as bytes: 2 GB at 64×64.

    Args:
        face: side of the square in the centre; 148 and 140 are usual, 178 is the whole width.
        attribute: which of the 40 attributes is the label, such as Smiling or Male.

    References:
        Liu et al. (2015), "Deep learning face attributes in the wild".
    """

    title: ClassVar[str] = "CelebA faces, 64×64 in colour"
    paper: ClassVar[str] = "Liu et al. 2015"

    resize: int | tuple[int, int] | None = 64
    face: int = 148
    attribute: str = "Smiling"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_int(self, "face", most=WIDTH)

    @property
    def native(self) -> tuple[int, int, int]:  # type: ignore[override]
        return 3, self.face, self.face

    def read(self) -> Raw:
        from torchvision import datasets
        from torchvision.transforms.v2.functional import center_crop

        files = "the folder celeba with img_align_celeba/*.jpg and the five .txt files of https://mmlab.ie.cuhk.edu.hk"
        with self._torchvision(files):
            found = datasets.CelebA(self.root, split="all", download=self.download)
            folder = Path(found.root) / found.base_folder
            rows = [line.split() for line in (folder / "list_eval_partition.txt").read_text().splitlines()]
            splits = np.array([int(number) for _, number in rows])
        names = [name for name in found.attr_names if name]
        if self.attribute not in names:
            raise FlowvaeError(f"CelebA.attribute = {self.attribute!r}: {nearest(self.attribute, names)}")
        labels = found.attr[:, names.index(self.attribute)].numpy()
        shape = tuple(self.event_shape(self.native))
        parts = {}
        for split, number in SPLITS.items():
            chosen = np.flatnonzero(splits == number)
            if not len(chosen):
                raise FlowvaeError(f"CelebA: list_eval_partition.txt has no images of {split}; download it again.")
            images = [folder / "img_align_celeba" / found.filename[i] for i in chosen]
            x = read_files(
                f"CelebA, {split}", images, shape, lambda x: self.resized(center_crop(x, [self.face, self.face]))
            )
            parts[split] = Part(x, labels[chosen])
        return Raw(
            parts,
            split="as published",
            classes=(f"not {self.attribute}", self.attribute),
            done=f"faces, centre of {self.face} × {self.face}",
            sized=True,
        )
