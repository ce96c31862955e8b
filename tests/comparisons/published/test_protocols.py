"""The data and models of recipes are those of their protocols: files in published formats, with made-up images."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.io import savemat

from flowvae.comparisons.published import RECIPES, Recipe
from flowvae.comparisons.published.recipe import MEASURES
from flowvae.core.parts import Units
from flowvae.data import Dataset, DataSpec
from flowvae.data.dataset import SPLITS
from flowvae.data.published import static_mnist
from flowvae.experiments.assemble import assemble
from flowvae.experiments.signature import Signature

RNG = np.random.default_rng(0)
DEBIAN = Path("/usr/share/datasets/fashion-mnist")


def _bits(*shape: int) -> NDArray[Any]:
    return RNG.integers(0, 2, shape).astype(np.uint8)


def _static_mnist(folder: Path) -> Path:
    sizes = {"train": 300, "valid": 20, "test": 10_000}
    np.savez(folder / "bits.npz", **{split: np.packbits(_bits(n, 784), axis=1) for split, n in sizes.items()})
    return folder / "bits.npz"


def _idx(folder: Path) -> Path:
    """The four files of an image set in the idx format, with few training images."""
    for split, count in (("train", 10_100), ("t10k", 10_000)):
        images = RNG.integers(0, 256, (count, 28, 28)).astype(np.uint8)
        parts = {"images-idx3": images, "labels-idx1": np.arange(count).astype(np.uint8) % 10}
        for kind, array in parts.items():
            head = struct.pack(f">{1 + array.ndim}i", 0x800 + array.ndim, *array.shape)
            with gzip.open(folder / f"{split}-{kind}-ubyte.gz", "wb", compresslevel=1) as file:
                file.write(head + array.tobytes())
    return folder


def _omniglot(folder: Path) -> Path:
    sizes = {"": 1500, "test": 8070}
    arrays = {f"{prefix}data": RNG.uniform(size=(784, n)) for prefix, n in sizes.items()}
    labels = {f"{prefix}target": np.eye(50)[np.arange(n) % 50].T for prefix, n in sizes.items()}
    savemat(folder / "chardata.mat", arrays | labels)
    return folder


def _caltech(folder: Path) -> Path:
    sizes = {"train": 41, "val": 22, "test": 2307}
    arrays = {f"{name}_data": _bits(n, 784) for name, n in sizes.items()}
    labels = {f"{name}_labels": np.arange(n)[:, None] % 101 + 1 for name, n in sizes.items()}
    savemat(folder / "caltech101_silhouettes_28_split1.mat", arrays | labels)
    return folder


def _frey(folder: Path) -> Path:
    savemat(folder / "frey_rawface.mat", {"ff": RNG.integers(0, 256, (560, 1965)).astype(np.uint8)})
    return folder


MADE: dict[str, Callable[[Path], Path]] = {
    "static-mnist": _static_mnist,
    "mnist": _idx,
    "fashion-mnist": _idx,
    "omniglot": _omniglot,
    "caltech-silhouettes": _caltech,
    "frey-faces": _frey,
}
FAMILIES = {name: next(r for r in RECIPES.values() if r.experiment["data"]["family"] == name) for name in MADE}


def loaded(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Recipe, Dataset]:
    """A recipe on a data set, and the data from made files, whose published checksums do not count."""
    recipe = FAMILIES[name]
    spec: DataSpec = recipe.build(MADE[name](folder)).data
    monkeypatch.setattr(static_mnist, "CHECKSUMS", dict.fromkeys(SPLITS, ""))
    monkeypatch.setattr(static_mnist, "_checksum", lambda x: "")
    if hasattr(spec, "checksums"):
        monkeypatch.setattr(type(spec), "checksums", {})
        monkeypatch.setattr(type(spec), "_torchvision_class", lambda self: None)
    return recipe, spec.load(0)


def test_every_data_set_of_a_recipe_is_made() -> None:
    assert {recipe.experiment["data"]["family"] for recipe in RECIPES.values()} == MADE.keys()


@pytest.mark.parametrize("name", MADE)
def test_the_identity_of_the_data_is_that_of_the_protocol(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, data = loaded(name, tmp_path, monkeypatch)
    assert recipe.protocol.preprocessing in data.identity.preprocessing
    assert len(data.test) == recipe.protocol.test
    assert data.likelihood.discrete  # nats of probabilities
    others = {r.protocol.preprocessing for r in RECIPES.values()} - {
        recipe.protocol.preprocessing,
        "dynamically binarized",
    }
    assert not [other for other in others if other in data.identity.preprocessing]


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_fashion_mnist_is_found_where_debian_has_it() -> None:
    recipe = RECIPES["fashion-mnist-normal"]
    data = recipe.build().data.load(0)
    assert recipe.protocol.preprocessing in data.identity.preprocessing
    assert (len(data.train), len(data.valid), len(data.test)) == (50_000, 10_000, 10_000)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_model_and_guide_can_be_built(recipe: Recipe) -> None:
    experiment = recipe.build()
    shape = (1, 28, 20) if experiment.data.family == "frey-faces" else (1, 28, 28)
    likelihood = recipe.experiment["data"].get("likelihood", "bernoulli")
    signature = Signature(shape, 8, likelihood, "float32", 0, (), ())
    units = Units(torch.full(shape, 0.5), torch.full(shape, 0.5))
    model, guide = assemble(experiment, signature, units, torch.zeros(8, *shape))
    x = torch.zeros(2, *shape)
    z = guide.posterior(x).sample()
    assert z.shape == (2, recipe.experiment["latent"])
    assert model.mean(z).shape == x.shape
    assert model.prior_given(None).log_prob(z).isfinite().all()
    assert MEASURES[recipe.protocol.measure].per_dimension == (signature.spec.largest != 1)  # nats of bits
