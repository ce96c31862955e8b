"""The data of published protocols: settings, and the files that they need."""

from __future__ import annotations

from typing import Any

__all__ = [
    "CALTECH",
    "DYNAMIC_MNIST",
    "DYNAMIC_OMNIGLOT",
    "FASHION_BITS",
    "FILES",
    "FIXED_MNIST",
    "FREY_FACES",
    "LAROCHELLE",
    "REDRAWN",
]

# settings as in a YAML file
FIXED_MNIST: dict[str, Any] = {"family": "static-mnist"}
DYNAMIC_MNIST: dict[str, Any] = {"family": "mnist", "values": "dynamic"}
DYNAMIC_OMNIGLOT: dict[str, Any] = {"family": "omniglot", "values": "dynamic"}
FASHION_BITS: dict[str, Any] = {"family": "fashion-mnist", "values": "dynamic"}
CALTECH: dict[str, Any] = {"family": "caltech-silhouettes"}
FREY_FACES: dict[str, Any] = {"family": "frey-faces", "values": "grey"}

# preprocessing in the identities of the data
LAROCHELLE = "binarized once, fixed (Larochelle)"
REDRAWN = "dynamically binarized"

_FOLDER = "in the folder at --data-path, by default $FLOWVAE_DATA or ~/.cache/flowvae/data"
FILES = {
    "static-mnist": "Larochelle's binarized_mnist_train.amat, _valid.amat and _test.amat in the folder at --data-path, "
    "or one .npz of their bits, whose valid is reported where it has no test images",
    "mnist": f"the four idx files of MNIST, {_FOLDER}",
    "fashion-mnist": f"the four idx files of Fashion-MNIST, {_FOLDER}, or Debian's package dataset-fashion-mnist",
    "omniglot": f"chardata.mat of Burda et al. (2016), {_FOLDER}",
    "caltech-silhouettes": f"caltech101_silhouettes_28_split1.mat, {_FOLDER}",
    "frey-faces": f"frey_rawface.mat, {_FOLDER}",
}
