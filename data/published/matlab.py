"""Image sets in MATLAB files: Caltech-101 silhouettes and Frey faces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Size

from flowvae.core.errors import FlowvaeError, shown_path
from flowvae.core.parts import parse_likelihood
from flowvae.data.dataset import Dataset, DataSpec
from flowvae.data.files.reading import check_regular_file, data_path
from flowvae.data.images.image_data import Raw
from flowvae.data.images.named import NamedImages, data_root, random_part
from flowvae.data.preparation import Part, prepare

__all__ = ["CaltechSilhouettes", "FreyFaces", "read_matlab"]

SIDE = 28


def read_matlab(
    root: Path, name: str, address: str, arrays: Mapping[str, tuple[int, ...]], ask: str = ""
) -> dict[str, NDArray[Any]]:
    """Arrays of a MATLAB file by name.

    Args:
        root: folder of the file.
        name: name of the file.
        address: address where the file is published.
        arrays: required arrays, and their shapes, with 0 for any size.
        ask: second remedy, for messages.

    Raises:
        FlowvaeError: for a missing or damaged file, or one without these arrays.
    """
    where, remedy = f"data.root = {shown_path(root)}: {name}", f"put {name} there, of {address}{ask}"
    check_regular_file(where, root / name, f"{remedy}.")
    # imported here: most data do not need it
    from scipy.io import loadmat

    try:
        found = loadmat(root / name)
    except Exception:  # damaged bytes raise nearly every type
        raise FlowvaeError(f"{where}: is damaged, or not a MATLAB file (up to version 7.2); {remedy}.") from None
    for array, shape in arrays.items():
        values = found.get(array)
        if values is None:
            raise FlowvaeError(f"{where}: holds no array {array!r}; {remedy}.")
        if len(values.shape) != len(shape) or any(n not in (0, m) for m, n in zip(values.shape, shape, strict=True)):
            wanted = " × ".join(str(n or "N") for n in shape)
            raise FlowvaeError(f"{where}: {array!r} has the shape {values.shape}; must be {wanted}: {remedy}.")
    return found


@dataclass(frozen=True, kw_only=True)
class CaltechSilhouettes(DataSpec, name="caltech-silhouettes"):
    """Outlines of objects, 28×28 bits: 4100 training, 2264 validation and 2307 test images of 101 classes.

    Objects are 1 and the background is 0, as in published figures; in the file they are inverted.

    Args:
        root: the folder of caltech101_silhouettes_28_split1.mat; by default `$FLOWVAE_DATA`, else
            `~/.cache/flowvae/data`.

    References:
        Marlin, Swersky, Chen & de Freitas (2010), "Inductive principles for restricted Boltzmann machine learning".
    """

    title: ClassVar[str] = "Caltech-101 silhouettes, 28×28 bits"
    paper: ClassVar[str] = "Marlin et al. 2010"
    file: ClassVar[str] = "caltech101_silhouettes_28_split1.mat"
    address: ClassVar[str] = f"https://people.cs.umass.edu/~marlin/data/{file}"

    root: Path = field(default_factory=data_root)

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", data_path("data.root", self.root, "the path of a folder"))

    @property
    def shape(self) -> Size:
        return Size((1, SIDE, SIDE))

    def load(self, seed: int) -> Dataset:
        names = {"train": "train", "valid": "val", "test": "test"}
        wanted = {f"{name}_data": (0, SIDE * SIDE) for name in names.values()}
        wanted |= {f"{name}_labels": (0, 1) for name in names.values()}
        found = read_matlab(self.root, self.file, self.address, wanted)
        parts = {}
        for split, name in names.items():
            bits = found[f"{name}_data"].reshape(-1, SIDE, SIDE).transpose(0, 2, 1)  # stored column by column
            parts[split] = Part(1 - bits.astype(np.float32), found[f"{name}_labels"][:, 0].astype(np.int64) - 1)
        classes = tuple(str(np.ravel(name)[0]) for name in np.ravel(found.get("classnames", ())))
        return prepare(
            self.family,
            parts,
            parse_likelihood("bernoulli"),
            seed,
            name=self.family,
            split="as published (split 1)",
            preprocessing="bits as published, inverted: objects are 1",
            classes=classes,
        )


@dataclass(frozen=True, kw_only=True)
class FreyFaces(NamedImages, name="frey-faces"):
    """Frames of a video of one face, 28 high and 20 wide, grey levels: 1565 training, 200 validation, 200 test images.

    Published results use random splits; here they are drawn once and do not depend on the seed.

    References:
        Roweis, Saul & Hinton (2001), "Global coordination of local linear models".
    """

    title: ClassVar[str] = "Frey faces, 28×20 grey levels"
    paper: ClassVar[str] = "Roweis et al. 2001"
    native: ClassVar[tuple[int, int, int]] = (1, 28, 20)
    file: ClassVar[str] = "frey_rawface.mat"
    address: ClassVar[str] = f"https://cs.nyu.edu/~roweis/data/{file}"
    checksum: ClassVar[str] = "5aeb024d42b8a6091f30e5eb18c8a48d"  # MD5, of a download

    def read(self) -> Raw:
        if self.download and not (self.root / self.file).exists():
            from torchvision.datasets.utils import download_url

            with self._torchvision(f"{self.file}, of {self.address}"):
                download_url(self.address, self.root, self.file, self.checksum)
        ask = "" if self.download else ", or download it: --data.download"
        faces = read_matlab(self.root, self.file, self.address, {"ff": (28 * 20, 1965)}, ask)["ff"]
        x = faces.T.reshape(-1, 28, 20)
        held_out = random_part(400, x, self.family).numpy()
        rest = np.setdiff1d(np.arange(len(x)), held_out)
        parts = {"train": Part(x[rest]), "valid": Part(x[held_out[:200]]), "test": Part(x[held_out[200:]])}
        return Raw(parts, split="drawn once by a fixed seed")
