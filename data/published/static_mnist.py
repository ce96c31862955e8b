"""MNIST as Larochelle binarized it: 28×28 bits."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Size, Tensor

from flowvae.core.errors import FlowvaeError, check_bool, one_line, shown, shown_path
from flowvae.core.parts import LikelihoodSpec, as_likelihood, parse_likelihood
from flowvae.data.dataset import SPLITS, Dataset, DataSpec
from flowvae.data.files.reading import check_regular_file, data_path, read_arrays

__all__ = ["StaticMNIST"]

SIDE = 28
PIXELS = SIDE * SIDE
FILE = "static_mnist_train_valid.npz"
AMAT = "binarized_mnist_{}.amat"
ADDRESS = "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist"
CHECKSUMS = {  # SHA-256, as TensorFlow Datasets has them
    "train": "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d",
    "valid": "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2",
    "test": "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c",
}
OTHER = "bits of a file, not the published ones"
FORMS = f"{FILE}, or a folder with {', '.join(AMAT.format(split) for split in SPLITS)} (of {ADDRESS})"
ASK = "text files are downloaded by --data.path FOLDER --data.download"


@dataclass(frozen=True)
class StaticMNIST(DataSpec, name="static-mnist"):
    """Fixed-binarized MNIST: 50,000 training, 10,000 validation and 10,000 test images of shape (1, 28, 28).

    The path is a folder with Larochelle's text files `binarized_mnist_train.amat`, `…_valid.amat` and `…_test.amat`; or
    a `.npz` with arrays `train`, `valid` and optionally `test`, each (N, 784) or (N, 28, 28) of bits, or (N, 98) of
    bits packed by `numpy.packbits`. Bits with another checksum than Larochelle's have another identity. Without `test`,
    the validation images are also the test images: results are then on images used for early stopping, and the
    description of the split says so.

    Args:
        path: the file or folder; `~` is the home directory.
        download: whether to download the text files into the folder `path`, if they are not there.
        likelihood: likelihood of the bits, in text form, such as pixelcnn; none: bernoulli.

    References:
        Salakhutdinov & Murray (2008), "On the Quantitative Analysis of Deep Belief Networks"; Larochelle & Murray
        (2011), "The Neural Autoregressive Distribution Estimator".
    """

    title: ClassVar[str] = "fixed-binarized MNIST, 28×28 bits"
    paper: ClassVar[str] = "Larochelle & Murray 2011"

    path: Path = Path(FILE)
    download: bool = False
    likelihood: LikelihoodSpec | None = field(default=None, metadata={"omit_default": True})

    def __post_init__(self) -> None:
        if self.likelihood is not None:
            object.__setattr__(self, "likelihood", as_likelihood("StaticMNIST.likelihood", self.likelihood))
        object.__setattr__(self, "path", data_path("data.path", self.path, f"the path of {FORMS}"))
        check_bool(self, "download")

    @property
    def shape(self) -> Size:
        return Size((1, SIDE, SIDE))

    def load(self, seed: int) -> Dataset:
        if self.download:
            _download(self.path)
        bits = _read_folder(self.path) if os.path.isdir(self.path) else _read_archive(self.path)
        published = all(_checksum(x) == CHECKSUMS[s] for s, x in bits.items())
        split = "Larochelle's" if published else "as in the file"
        if "test" not in bits:
            split += ", valid used as test too (tuned and reported on the same images)"
        return Dataset(
            bits["train"],
            bits["valid"],
            bits.get("test", bits["valid"]),
            likelihood=self.likelihood or parse_likelihood("bernoulli"),
            name="static-mnist",
            preprocessing="binarized once, fixed (Larochelle)" if published else OTHER,
            split=split,
        )


def _download(folder: Path) -> None:
    """Download missing text files, which are checked when they are read.

    Raises:
        FlowvaeError: for the path of a `.npz`, or if the download fails.
    """
    from torchvision.datasets.utils import download_url

    if folder.suffix == ".npz":
        raise FlowvaeError(f"data.path = {shown_path(folder)}: only text files can be downloaded; name a folder.")
    for split in SPLITS:
        name = AMAT.format(split)
        if not (folder / name).exists():
            try:
                download_url(f"{ADDRESS}/{name}", folder, name)
            except (OSError, RuntimeError) as error:
                raise FlowvaeError(f"{ADDRESS}/{name}: cannot be downloaded ({one_line(error)}); try later.") from None


def _read_folder(folder: Path) -> dict[str, Tensor]:
    """Bits (N, 1, 28, 28) by split, from text files."""
    return {split: _read_text(folder, AMAT.format(split), CHECKSUMS[split]) for split in SPLITS}


def _read_text(folder: Path, name: str, checksum: str) -> Tensor:
    """Bits (N, 1, 28, 28) of a text file, 784 digits 0 or 1 a line."""
    where, file = f"data.path = {shown_path(folder)}: {name}", folder / name
    check_regular_file(where, file, f"put it there, of {ADDRESS}, or download it: --data.download.")
    content = np.fromfile(file, np.uint8)
    if hashlib.sha256(content.data).hexdigest() != checksum:
        raise FlowvaeError(f"{where}: its checksum is not that of the published file; download it again, of {ADDRESS}.")
    return _as_images(content.reshape(-1, 2 * PIXELS)[:, ::2] - ord("0"))  # without the separators between digits


def _checksum(x: Tensor) -> str:
    """SHA-256 of the text file that would hold bits (N, 1, 28, 28)."""
    text = np.full((len(x), PIXELS, 2), ord(" "), np.uint8)
    text[..., 0] = x.flatten(1).byte().numpy()
    text[..., 0] += ord("0")
    text[:, -1, 1] = ord("\n")
    return hashlib.sha256(text.data).hexdigest()


def _read_archive(path: Path) -> dict[str, Tensor]:
    """Bits (N, 1, 28, 28) by split, from a `.npz`."""
    rule = f"put {FORMS} there; {ASK}"
    arrays = read_arrays(f"data.path = {shown_path(path)}", path, f"{rule}.")
    missing = [name for name in ("train", "valid") if name not in arrays]
    if missing:
        there = shown(", ".join(arrays) or "none")
        raise FlowvaeError(f"{shown_path(path)}: holds no array {missing[0]!r} (it has: {there}); {rule}.")
    return {name: _unpack(path, name, arrays[name]) for name in SPLITS if name in arrays}


def _unpack(path: Path, name: str, array: NDArray[Any]) -> Tensor:
    flat = array.reshape(len(array), -1) if array.ndim > 1 and len(array) else array
    if array.dtype == np.uint8 and array.ndim == 2 and array.shape[1] * 8 == PIXELS:
        return _as_images(np.unpackbits(array, axis=1))
    if flat.ndim != 2 or flat.shape[1] != PIXELS or array.dtype.kind not in "biuf" or ((flat != 0) & (flat != 1)).any():
        raise FlowvaeError(
            f"{shown_path(path)}, {name}: shape {array.shape} of {shown(array.dtype)}; must be (N, {PIXELS // 8}) of "
            f"uint8, as numpy.packbits packs bits, or (N, {PIXELS}) of numbers 0 and 1."
        )
    return _as_images(flat)


def _as_images(bits: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(bits)).to(torch.get_default_dtype()).reshape(-1, 1, SIDE, SIDE)
