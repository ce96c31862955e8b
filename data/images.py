"""Images from a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from torch.utils.data import Dataset as TorchDataset

from flowvae.core.errors import FlowvaeError, check_int, nearest, shown_path
from flowvae.core.parts import LikelihoodSpec, as_likelihood, parse_likelihood
from flowvae.data.dataset import SPLITS, Dataset, DataSpec
from flowvae.data.preparation import prepare
from flowvae.data.reading import data_path
from flowvae.data.torch_items import part_of_items

__all__ = ["Images"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
REMEDY = f"put images of one size there ({', '.join(SUFFIXES)}), or folders of them, one a class"


@dataclass(frozen=True)
class Images(DataSpec, name="images"):
    """A folder of images of one size, all grey or all RGB, with shades 0..255 as counts.

    Sub-folders are classes. Folders `train`, `valid` and `test` are splits, and classes are inside them; a split that
    is missing is drawn from train, 15 % each, by the run's seed.

    Args:
        path: the folder; `~` is the home directory.
        likelihood: what the shades are, in text form.
        workers: processes that read images anew for every batch; 0: all images are kept in memory.
    """

    title: ClassVar[str] = "a folder of your own images"

    path: Path
    likelihood: LikelihoodSpec = field(default_factory=lambda: parse_likelihood("binomial:255"))
    workers: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", data_path("data.path", self.path, "the path of a folder"))
        object.__setattr__(self, "likelihood", as_likelihood("data.likelihood", self.likelihood))
        check_int(self, "workers", least=0)

    def load(self, seed: int) -> Dataset:
        where = shown_path(self.path)
        splits = _splits(self.path)
        names = sorted({name for found in splits.values() for name in found if name})
        parts, classes = {}, tuple(names)
        for split, found in splits.items():
            files = [(file, classes.index(name) if name else None) for name in sorted(found) for file in found[name]]
            parts[split] = part_of_items(ImageFiles(files), self.workers)[0]
        return prepare(
            where,
            parts,
            self.likelihood,
            seed,
            name=self.path.name,
            split="as in the folders",
            preprocessing="none (shades 0..255 as counts)" if str(self.likelihood) == "binomial:255" else "",
            classes=classes,
        )


class ImageFiles(TorchDataset[Any]):
    """Image files as a torch data set of images, or of (image, label).

    Args:
        files: with their labels, None where they have none.
    """

    def __init__(self, files: Sequence[tuple[Path, int | None]]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> Any:
        from PIL import Image, UnidentifiedImageError

        file, label = self.files[number]
        try:
            with Image.open(file) as image:
                image.load()
        except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError):
            raise FlowvaeError(
                f"{shown_path(file)}: is no image, or damaged; take it away, or copy it again."
            ) from None
        if image.mode not in ("1", "L", "RGB"):
            raise FlowvaeError(
                f"{shown_path(file)}: is an image of mode {image.mode}; convert it to grey or RGB, such as by "
                "image.convert('RGB') of Pillow."
            )
        return image if label is None else (image, label)

    def __repr__(self) -> str:
        return f"images in {self.files[0][0].parent}"


def _splits(path: Path) -> dict[str, dict[str, list[Path]]]:
    """Image files by split and class, '' where there are no classes."""
    where = f"data.path = {shown_path(path)}"
    if not path.is_dir():
        raise FlowvaeError(f"{where}: {'is not a folder' if path.exists() else 'no such folder'}; {REMEDY}.")
    folders = _folders(path)
    if not any(folder.name in SPLITS for folder in folders):
        return {"train": _classes(where, path)}
    for folder in folders:
        if folder.name not in SPLITS:
            raise FlowvaeError(
                f"{where}: a folder {folder.name} beside those of splits; {nearest(folder.name, SPLITS)}"
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
            raise FlowvaeError(f"{where}: no images in the folder {name}; {REMEDY}.")
    if not found:
        raise FlowvaeError(f"{where}: no images; {REMEDY}.")
    return found


def _images(path: Path) -> list[Path]:
    return sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES and not file.name.startswith("."))


def _folders(path: Path) -> list[Path]:
    return sorted(folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith("."))
