"""Base class of published image data sets, whose files are in one folder for all data sets."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Size, Tensor

from flowvae.core.errors import FlowvaeError, check_bool, one_line, shown_path
from flowvae.core.seeds import derive
from flowvae.data.files.reading import data_path
from flowvae.data.images.image_data import ImageData

__all__ = ["NamedImages", "data_root", "last", "random_part"]


@dataclass(frozen=True, kw_only=True)
class NamedImages(ImageData):
    """A published image data set.

    Args:
        root: the folder of the files; by default `$FLOWVAE_DATA`, else `~/.cache/flowvae/data`.
        download: whether to download missing files.

    Attributes:
        native: shape of an image before preprocessing.
    """

    root: Path = field(default_factory=lambda: data_root())
    download: bool = False

    native: ClassVar[tuple[int, int, int]]

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "root", data_path("data.root", self.root, "the path of a folder"))
        check_bool(self, "download")
        if os.path.isfile(self.root):
            raise FlowvaeError(f"data.root = {shown_path(self.root)}: is not a folder; name the one that it is in.")

    @property
    def shape(self) -> Size:
        return self.event_shape(self.native)

    @contextmanager
    def _torchvision(self, files: str) -> Iterator[None]:
        """Turn torchvision's errors about missing or damaged files into one line.

        Args:
            files: the files that are needed, in words.
        """
        try:
            with redirect_stdout(StringIO()):
                yield
        except FlowvaeError:
            raise
        except Exception as error:  # damaged files raise nearly every type
            reason = one_line(error, 160).partition(" You can use")[0].rstrip(".")
            ask = "" if self.download else ", or let torchvision download them: --data.download"
            raise FlowvaeError(
                f"data.root = {shown_path(self.root)}: no {self.family} there, or damaged ({reason}); put there {files}"
                f"{ask}."
            ) from None


def data_root() -> Path:
    """`$FLOWVAE_DATA`, else `flowvae/data` in `$XDG_CACHE_HOME`, else `~/.cache/flowvae/data`."""
    own = os.environ.get("FLOWVAE_DATA")
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return data_path("FLOWVAE_DATA", own or f"{cache}/flowvae/data", "the path of a folder")


def last(count: int, train: Any) -> Tensor:
    """Positions (count,) of the last images of train."""
    return torch.arange(len(train) - count, len(train))


def random_part(count: int, train: Any, name: str) -> Tensor:
    """Positions (count,) of random images of train, drawn by a fixed seed that depends on the data set's name."""
    generator = torch.Generator().manual_seed(derive(0, name, "split"))
    return torch.randperm(len(train), generator=generator)[:count]
