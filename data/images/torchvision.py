"""Data sets of torchvision by name."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from torch.utils.data import Dataset as TorchDataset

from flowvae.core.errors import FlowvaeError, check_bool, check_int, nearest, one_line, shown, shown_path
from flowvae.data.files.reading import data_path
from flowvae.data.files.torch_items import part_of_items
from flowvae.data.images.decoding import as_bytes
from flowvae.data.images.geometry import Geometry
from flowvae.data.images.image_data import ImageData, Raw
from flowvae.data.images.named import data_root

__all__ = ["Torchvision"]

SPLITS = {"train": ("train",), "valid": ("valid", "val"), "test": ("test",)}  # torchvision's names


@dataclass(frozen=True)
class Torchvision(ImageData, name="torchvision"):
    """Any other image data set of torchvision with its own splits, such as Flowers102 or STL10.

    A missing split, usually valid, is drawn from train, 15 %, by the run's seed.

    Args:
        name: name of the class in `torchvision.datasets`.
        root: the folder of its files in torchvision's layout; by default `$FLOWVAE_DATA`, else
            `~/.cache/flowvae/data`.
        download: whether to download missing files.
        workers: number of processes that read the images of every batch from the files; 0 keeps all images in memory,
            one byte a value.
    """

    title: ClassVar[str] = "any other image set of torchvision, by the name of its class"

    name: str
    root: Path = field(default_factory=data_root)
    download: bool = False
    workers: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.name, str):
            raise FlowvaeError(f"data.name = {shown(self.name)}: must be the name of a data set of torchvision.")
        object.__setattr__(self, "root", data_path("data.root", self.root, "the path of a folder"))
        check_bool(self, "download")
        check_int(self, "workers", least=0)

    @property
    def where(self) -> str:
        return self.name

    def read(self) -> Raw:
        found = {split: part_of_items(Sized(one, self), self.workers) for split, one in self._open().items()}
        parts = {split: part for split, (part, _) in found.items()}
        return Raw(parts, split="torchvision's", classes=found["train"][1], sized=True, name=self.name)

    def _open(self) -> dict[str, Any]:
        """The available splits, by name."""
        known = _known()
        if self.name not in known:
            raise FlowvaeError(
                f"data.name = {shown(self.name)}: {nearest(self.name, known)} Any other data set: as_data(…) in Python."
            )
        kind = known[self.name]
        settings = {"download": True} if self.download and "download" in inspect.signature(kind).parameters else {}
        splits = {}
        for split, words in SPLITS.items():
            choices: list[dict[str, Any]]
            if "train" in inspect.signature(kind).parameters:
                choices = [] if split == "valid" else [{"train": split == "train"}]
            else:
                choices = [{"split": word} for word in words]
            for choice in choices:
                try:
                    splits[split] = kind(self.root, **choice, **settings)
                except ValueError:  # an unknown name of a split
                    continue
                except (RuntimeError, OSError) as error:
                    ask = "" if self.download else ", or let torchvision download them: --data.download"
                    reason = one_line(error).rstrip(".")
                    raise FlowvaeError(
                        f"data.root = {shown_path(self.root)}: no files of {self.name} ({reason}); name "
                        f"the folder that torchvision keeps them in{ask}."
                    ) from None
        if "train" not in splits:
            raise FlowvaeError(f"data.name = {self.name}: has no train split; give it by as_data(…) in Python.")
        return splits


class Sized(TorchDataset[Any]):
    """A torchvision data set whose images have one size and colour, as bytes (C, H, W).

    Args:
        dataset: data set with items image, or (image, label).
        how: size and colour of the images.
    """

    def __init__(self, dataset: Any, how: Geometry) -> None:
        self.dataset = dataset
        self.how = how
        self.classes = getattr(dataset, "classes", ())

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, number: int) -> Any:
        item = self.dataset[number]
        image, *label = item if isinstance(item, tuple) else (item,)
        pixels = as_bytes(f"{shown(self.dataset)}: item {number}", image)
        return (self.how.resized(pixels[None])[0], *label)

    def __repr__(self) -> str:
        return one_line(self.dataset)


def _known() -> dict[str, Any]:
    """Data sets that select a split by `train` or `split`, and require no other argument than `root`."""
    from torchvision import datasets

    found = {}
    for name in datasets.__all__:
        parameters = inspect.signature(getattr(datasets, name)).parameters
        needed = [p.name for p in parameters.values() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
        if ("train" in parameters or "split" in parameters) and needed == ["root"]:
            found[name] = getattr(datasets, name)
    return found
