"""MNIST and the sets in its format: Fashion-MNIST, KMNIST, EMNIST."""

from __future__ import annotations

import os
import string
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from numpy.typing import NDArray

from flowvae.core.errors import FlowvaeError, check_choice, shown_path
from flowvae.data.files.idx import read_idx
from flowvae.data.images.image_data import Raw
from flowvae.data.images.named import NamedImages, last
from flowvae.data.preparation import Part

__all__ = ["EMNIST", "KMNIST", "MNIST", "FashionMNIST"]


@dataclass(frozen=True, kw_only=True)
class IdxImages(NamedImages):
    """28×28 grey images in files of the idx format, compressed or not.

    The files are in the folder `root` itself, or in torchvision's folder `root/NAME/raw`. The last images of the
    training file, as many as there are test images, are the validation images for every seed.

    Attributes:
        named: name of torchvision's class, which has the addresses and checksums.
        class_names: names of the classes.
        checksums: MD5 of the uncompressed files, if known.
        also: another folder to search, such as one of a system package.
    """

    native: ClassVar[tuple[int, int, int]] = (1, 28, 28)
    named: ClassVar[str]
    class_names: ClassVar[tuple[str, ...]]
    checksums: ClassVar[dict[str, str]] = {}
    also: ClassVar[str] = ""

    def read(self) -> Raw:
        files = {s: self._files(s) for s in ("train", "test")}
        needed = [name for names in files.values() for name in names]
        if any(self._find(name) is None for name in needed) and self.download:
            with self._torchvision(self._where(needed)):
                self._download()
        missing = [name for name in needed if self._find(name) is None]
        if missing:
            raise FlowvaeError(
                f"data.root = {shown_path(self.root)}: no {missing[0]}; put there {self._where(needed)}, or let "
                "torchvision download them: --data.download."
            )
        parts = {s: Part(*self._images(s, *names)) for s, names in files.items()}
        count = len(parts["test"].x)
        if count >= len(parts["train"].x):
            raise FlowvaeError(f"{self.family}: the training file has no more images than the test file; check both.")
        return Raw(
            parts,
            split=f"test as published, valid the last {count} of train",
            valid=last(count, parts["train"].x),
            classes=self.class_names,
        )

    def _files(self, split: str) -> tuple[str, str]:
        """Names of the files of images and labels."""
        prefix = "train" if split == "train" else "t10k"
        return f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"

    def _images(self, split: str, images: str, labels: str) -> tuple[NDArray[Any], NDArray[Any]]:
        """Images (N, 28, 28) and labels (N,) of a split."""
        x, y = self._read(images, 3), self._read(labels, 1)
        if x.shape[1:] != self.native[1:] or len(x) != len(y) or not len(x):
            raise FlowvaeError(
                f"{self.family}, {images}: images of shape {x.shape} with {len(y)} labels; must be (N, 28, 28) with N "
                "labels: copy or download both files again."
            )
        return x, y

    def _read(self, name: str, axes: int) -> NDArray[Any]:
        path = self._find(name)
        assert path is not None
        known = [self.checksums[name]] if name in self.checksums else []
        if path.suffix == ".gz" and not known:
            known = [md5 for file, md5 in getattr(self._torchvision_class(), "resources", ()) if file == path.name]
        return read_idx(path, axes, known)

    def _find(self, name: str) -> Path | None:
        folders = [self.root, self.root / self.named / "raw", *([Path(self.also)] if self.also else [])]
        files = [folder / file for folder in folders for file in (name, f"{name}.gz")]
        return next((file for file in files if os.path.isfile(file)), None)

    def _where(self, needed: list[str]) -> str:
        """The files and their address, in words."""
        return f"{', '.join(needed)} (or .gz), or in {self.named}/raw, of {self._address()}"

    def _torchvision_class(self) -> Any:
        from torchvision import datasets

        return getattr(datasets, self.named)

    def _address(self) -> str:
        return str(self._torchvision_class().mirrors[0])

    def _download(self) -> None:
        self._torchvision_class()(self.root, download=True)


@dataclass(frozen=True, kw_only=True)
class MNIST(IdxImages, name="mnist"):
    """Handwritten digits, 28×28 grey levels: 50,000 training, 10,000 validation and 10,000 test images.

    `values` decides which MNIST it is: see `Preprocessing`. The fixed binarization of most published tables is
    `StaticMNIST`.

    References:
        LeCun et al. (1998), "Gradient-based learning applied to document recognition".
    """

    title: ClassVar[str] = "MNIST digits, 28×28 grey levels"
    paper: ClassVar[str] = "LeCun et al. 1998"
    named: ClassVar[str] = "MNIST"
    class_names: ClassVar[tuple[str, ...]] = tuple(string.digits)
    checksums: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    }


@dataclass(frozen=True, kw_only=True)
class FashionMNIST(IdxImages, name="fashion-mnist"):
    """Articles of clothing, 28×28 grey levels: 50,000 training, 10,000 validation and 10,000 test images.

    If the files are not in `root`, those of Debian's package dataset-fashion-mnist are read.

    References:
        Xiao, Rasul & Vollgraf (2017), "Fashion-MNIST: a novel image dataset for benchmarking machine learning
        algorithms".
    """

    title: ClassVar[str] = "Fashion-MNIST, 28×28 grey levels"
    paper: ClassVar[str] = "Xiao et al. 2017"
    named: ClassVar[str] = "FashionMNIST"
    class_names: ClassVar[tuple[str, ...]] = (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    )
    also: ClassVar[str] = "/usr/share/datasets/fashion-mnist"
    checksums: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    }


@dataclass(frozen=True, kw_only=True)
class KMNIST(IdxImages, name="kmnist"):
    """Kuzushiji-MNIST, cursive Japanese characters, 28×28 grey levels: 50,000, 10,000 and 10,000 images.

    References:
        Clanuwat et al. (2018), "Deep learning for classical Japanese literature".
    """

    title: ClassVar[str] = "Kuzushiji-MNIST, 28×28 grey levels"
    paper: ClassVar[str] = "Clanuwat et al. 2018"
    named: ClassVar[str] = "KMNIST"
    class_names: ClassVar[tuple[str, ...]] = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")


SUBSETS = ("balanced", "byclass", "bymerge", "digits", "letters", "mnist")


@dataclass(frozen=True, kw_only=True)
class EMNIST(IdxImages, name="emnist"):
    """Handwritten letters and digits, 28×28 grey levels, upright; the files hold them transposed.

    Args:
        subset: letters (26 classes), digits, balanced (47), bymerge (47), byclass (62) or mnist.

    References:
        Cohen, Afshar, Tapson & van Schaik (2017), "EMNIST: extending MNIST to handwritten letters".
    """

    title: ClassVar[str] = "EMNIST letters and digits, 28×28 grey levels"
    paper: ClassVar[str] = "Cohen et al. 2017"
    named: ClassVar[str] = "EMNIST"

    subset: str = "letters"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "subset", SUBSETS)

    @property
    def class_names(self) -> tuple[str, ...]:  # type: ignore[override]
        names = self._torchvision_class().classes_split_dict[self.subset]
        return tuple(name for name in names if name != "N/A")

    def _files(self, split: str) -> tuple[str, str]:
        prefix = f"emnist-{self.subset}-{split}"
        return f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"

    def _images(self, split: str, images: str, labels: str) -> tuple[NDArray[Any], NDArray[Any]]:
        x, y = super()._images(split, images, labels)
        return x.transpose(0, 2, 1), y - (self.subset == "letters")  # labels of letters begin at 1

    def _address(self) -> str:
        return str(self._torchvision_class().url)

    def _download(self) -> None:
        self._torchvision_class()(self.root, split=self.subset, download=True)
