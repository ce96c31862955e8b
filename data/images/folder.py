"""Images from a folder of the user."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch.utils.data import Dataset as TorchDataset

from flowvae.core.errors import FlowvaeError, check_int, nearest, one_line, shown_path
from flowvae.data.dataset import SPLITS
from flowvae.data.files.reading import data_path
from flowvae.data.files.torch_items import TorchSource
from flowvae.data.images.decoding import check_sizes, decode, read_files
from flowvae.data.images.geometry import Geometry
from flowvae.data.images.image_data import ImageData, Raw
from flowvae.data.labels import warn_of_unseen
from flowvae.data.preparation import Part

__all__ = ["Images"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
BY_PLUGIN = (".avif", ".heic", ".heif", ".jfif", ".jp2", ".jxl")  # read if the installed Pillow can
REMEDY = f"put images there ({', '.join(SUFFIXES)}), or folders of them, one a class"


@dataclass(frozen=True)
class Images(ImageData, name="images"):
    """A folder of images, such as photographs, upright by their EXIF orientation.

    Sub-folders are classes. Folders `train`, `valid` and `test` are splits, with the classes inside them; missing
    splits are drawn from train, 15 % each, by the run's seed. Files that Pillow cannot read are skipped with a warning.
    Photographs of different sizes need `resize` and `crop`: `Images("photos", resize=64, crop=64)` scales their shorter
    side to 64 pixels and keeps the centre square.

    Args:
        path: the folder; `~` is the home directory.
        workers: number of processes that read the images of every batch from the files; 0 keeps all images in memory,
            one byte a value.
    """

    title: ClassVar[str] = "a folder of your own images, with or without classes"

    path: Path
    workers: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "path", data_path("data.path", self.path, "the path of a folder"))
        check_int(self, "workers", least=0)

    @property
    def where(self) -> str:
        return f"data.path = {shown_path(self.path)}"

    def read(self) -> Raw:
        splits = _splits(self.path)
        self._warn(splits)
        classes = tuple(sorted({name for found in splits.values() for name in found if name}))
        files = {s: [file for name in sorted(found) for file in found[name]] for s, found in splits.items()}
        shape = check_sizes(self.where, [file for found in files.values() for file in found], self)
        parts = {}
        for s, found in splits.items():
            labels = np.array([classes.index(name) for name in sorted(found) for _ in found[name] if name])
            x: Any
            if self.workers:
                x = TorchSource(ImageFiles(files[s], self), self.workers)
            else:
                x = read_files(f"{self.where}, {s}", files[s], shape, self.resized)
            parts[s] = Part(x, labels if len(labels) else None)
        return Raw(parts, split="as in the folders", classes=classes, sized=True, name=self.path.name)

    def _warn(self, splits: dict[str, dict[str, list[Path]]]) -> None:
        """Warn of skipped files, and of classes that train lacks."""
        warn_of_unseen(self.where, {split: filter(None, found) for split, found in splits.items()})
        taken = {file for found in splits.values() for files in found.values() for file in files}
        if others := _others(self.path, taken):
            warnings.warn(
                f"{self.where}: left out {others}; {REMEDY}. Convert photographs of other formats, such as to .jpg.",
                stacklevel=4,
            )


class ImageFiles(TorchDataset[Any]):
    """Image files as a torch data set of bytes (C, H, W).

    Args:
        files: paths of the images.
        how: size and colour of the images.
    """

    def __init__(self, files: Sequence[Path], how: Geometry) -> None:
        self.files = files
        self.how = how

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> Any:
        return self.how.resized(decode(self.files[number])[None])[0]

    def __repr__(self) -> str:
        return f"images in {self.files[0].parent}"


def _splits(path: Path) -> dict[str, dict[str, list[Path]]]:
    """Image files by split and class, with the class '' if there are no classes."""
    where = f"data.path = {shown_path(path)}"
    if not path.is_dir():
        raise FlowvaeError(f"{where}: {'is not a folder' if path.exists() else 'no such folder'}; {REMEDY}.")
    folders = _folders(path)
    if not any(folder.name in SPLITS for folder in folders):
        return {"train": _classes(where, path)}
    for folder in folders:
        if folder.name not in SPLITS:
            raise FlowvaeError(
                f"{where}: the folder {folder.name} is beside folders of splits; {nearest(folder.name, SPLITS)}"
            )
    found = {folder.name: _classes(f"{where}, {folder.name}", folder) for folder in folders}
    if "train" not in found:
        raise FlowvaeError(f"{where}: has no folder train; add it.")
    return {split: found[split] for split in SPLITS if split in found}


def _classes(where: str, path: Path) -> dict[str, list[Path]]:
    own, folders = _images(path), _folders(path)
    if own and folders:
        raise FlowvaeError(
            f"{where}: images beside the folder {folders[0].name}; put all images into folders, or none."
        )
    found = {"": own} if own else {folder.name: _images(folder) for folder in folders}
    for name, files in found.items():
        if not files:
            raise FlowvaeError(f"{where}: no images in the folder {name}{_beside(path / name)}; {REMEDY}.")
    if not found:
        raise FlowvaeError(f"{where}: no images{_beside(path)}; {REMEDY}.")
    return found


def _images(path: Path) -> list[Path]:
    readable = _readable()
    return sorted(file for file in path.iterdir() if file.suffix.lower() in readable and not file.name.startswith("."))


def _readable() -> frozenset[str]:
    """Suffixes of files that the installed Pillow can read."""
    from PIL import Image

    known = Image.registered_extensions()
    return frozenset((*SUFFIXES, *(suffix for suffix in BY_PLUGIN if known.get(suffix) in Image.OPEN)))


def _others(path: Path, taken: Set[Path] = frozenset()) -> str:
    """Counts of the other files in a folder and its sub-folders by suffix, without hidden files."""
    found = Counter(
        file.suffix.lower() or "no ending"
        for file in path.rglob("*")
        if file not in taken and file.is_file() and not any(part[0] == "." for part in file.relative_to(path).parts)
    )
    return one_line(", ".join(f"{count} {suffix}" for suffix, count in found.most_common()), 100)


def _beside(path: Path) -> str:
    others = _others(path)
    return f" that Pillow can read here among its files ({others})" if others else ""


def _folders(path: Path) -> list[Path]:
    return sorted(folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith("."))
