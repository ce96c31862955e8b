"""MNIST as Larochelle binarized it: 28×28 bits, from a user's file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Size, Tensor

from flowvae.core.errors import FlowvaeError, shown, shown_path
from flowvae.core.parts import parse_likelihood
from flowvae.data.dataset import Dataset, DataSpec
from flowvae.data.reading import data_path, read_arrays

__all__ = ["StaticMNIST"]

SIDE = 28
FILE = "static_mnist_train_valid.npz"


@dataclass(frozen=True)
class StaticMNIST(DataSpec, name="static-mnist"):
    """Fixed-binarized MNIST: 50,000 training and 10,000 validation images of shape (1, 28, 28).

    The file is a `.npz` with arrays `train` and `valid`, and `test` if you have it: shape (N, 98), uint8, each row the
    784 bits of an image as `numpy.packbits` packs them. Without `test`, the validation images are reported as well:
    then the figures are of images that stopped the training, and their split says so.

    Args:
        path: the file; `~` is the home directory.

    References:
        Salakhutdinov & Murray (2008), "On the Quantitative Analysis of Deep Belief Networks"; Larochelle & Murray
        (2011), "The Neural Autoregressive Distribution Estimator".
    """

    title: ClassVar[str] = "fixed-binarized MNIST, 28×28 bits, from your own file"

    path: Path = Path(FILE)

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", data_path("data.path", self.path, f"the path of a .npz, such as {FILE}"))

    @property
    def shape(self) -> Size:
        return Size((1, SIDE, SIDE))

    def load(self, seed: int) -> Dataset:
        arrays = _read(self.path)
        bits = {name: _unpack(self.path, name, arrays[name]) for name in ("train", "valid", "test") if name in arrays}
        split = "Larochelle's"
        if "test" not in bits:
            split += ", valid used as test too (tuned and reported on the same images)"
        return Dataset(
            bits["train"],
            bits["valid"],
            bits.get("test", bits["valid"]),
            likelihood=parse_likelihood("bernoulli"),
            name="static-mnist",
            preprocessing="binarized once, fixed (Larochelle)",
            split=split,
        )


def _read(path: Path) -> dict[str, NDArray[Any]]:
    rule = f"put {FILE} there (arrays train and valid of packed bits), or name it with data.path"
    arrays = read_arrays(f"data.path = {shown_path(path)}", path, f"{rule}.")
    missing = [name for name in ("train", "valid") if name not in arrays]
    if missing:
        there = shown(", ".join(arrays) or "none")
        raise FlowvaeError(f"{shown_path(path)}: holds no array {missing[0]!r} (it has: {there}); {rule}.")
    return arrays


def _unpack(path: Path, name: str, packed: NDArray[Any]) -> Tensor:
    if packed.dtype != np.uint8 or packed.ndim != 2 or packed.shape[1] * 8 != SIDE * SIDE:
        raise FlowvaeError(
            f"{shown_path(path)}, {name}: shape {packed.shape} of {shown(packed.dtype)}; must be "
            f"(N, {SIDE * SIDE // 8}) of uint8, 784 bits a row as numpy.packbits packs them."
        )
    bits = torch.from_numpy(np.unpackbits(packed, axis=1)).to(torch.get_default_dtype())
    return bits.reshape(-1, 1, SIDE, SIDE)
