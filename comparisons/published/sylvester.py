"""Flow posteriors with gated convolutions and z = 64: van den Berg et al. (2018)."""

from __future__ import annotations

from typing import Any

from flowvae.comparisons.published.data_sets import (
    CALTECH,
    DYNAMIC_OMNIGLOT,
    FILES,
    FIXED_MNIST,
    FREY_FACES,
    LAROCHELLE,
    REDRAWN,
)
from flowvae.comparisons.published.recipe import Protocol, Published, Recipe, register

__all__ = ["TRAINING"]

TRAINING: dict[str, Any] = {
    "epochs": 2000,
    "batch_size": 100,
    "learning_rate": 5e-4,
    "kl_warmup": 100,
    "patience": 100,
    "validation_draws": 1,
}
NETWORK: dict[str, Any] = {"family": "gated-conv"}
GUIDES: dict[str, dict[str, Any]] = {
    "normal": {"family": "gaussian"},
    "planar": {"family": "planar", "transforms": 4},
    "iaf": {"family": "iaf", "transforms": 4, "hidden_features": [320], "update": "gated"},
    "sylvester": {"family": "sylvester", "transforms": 4, "kind": "orthogonal", "rank": 8},
}
TITLES = {
    "normal": "Gaussian posterior",
    "planar": "4 planar layers",
    "iaf": "4 IAF layers",
    "sylvester": "4 Sylvester layers",
}
FIGURES = {  # value and spread; those of Sylvester flows are the best of three kinds and several ranks
    "static-mnist": {
        "normal": (86.55, 0.06),
        "planar": (86.06, 0.31),
        "iaf": (84.20, 0.17),
        "sylvester": (83.32, 0.06),
    },
    "omniglot": {
        "normal": (104.28, 0.39),
        "planar": (102.65, 0.42),
        "iaf": (102.41, 0.04),
        "sylvester": (99.00, 0.04),
    },
    "frey-faces": {"normal": (4.53, 0.02), "planar": (4.40, 0.06), "iaf": (4.47, 0.05), "sylvester": (4.45, 0.04)},
    "caltech-silhouettes": {
        "normal": (110.80, 0.46),
        "planar": (109.66, 0.42),
        "iaf": (111.58, 0.38),
        "sylvester": (104.62, 0.29),
    },
}
DATA: dict[str, tuple[dict[str, Any], Protocol, str]] = {
    "static-mnist": (FIXED_MNIST, Protocol("fixed-binarized MNIST", LAROCHELLE, 10_000, "bound", 100), ""),
    "omniglot": (
        DYNAMIC_OMNIGLOT,
        Protocol("dynamically binarized Omniglot, 28×28", f"Burda et al.; {REDRAWN}", 8070, "bound", 100),
        "",
    ),
    "frey-faces": (
        FREY_FACES | {"likelihood": "categorical:256"},
        Protocol("Frey faces, 256 grey levels", "counts 0..255", 200, "bound-bits", 100),
        "200 test images drawn by another seed than the paper's three",
    ),
    "caltech-silhouettes": (
        CALTECH,
        Protocol("Caltech-101 silhouettes, 28×28", "objects are 1", 2307, "bound", 100),
        "",
    ),
}


def _recipes() -> list[Recipe]:
    found = []
    for name, (data, protocol, unlike) in DATA.items():
        figures = {
            guide: Published(value, TITLES[guide], spread=spread) for guide, (value, spread) in FIGURES[name].items()
        }
        for guide, settings in GUIDES.items():
            best = ("the published figure is the best of several kinds and ranks",) if guide == "sylvester" else ()
            found.append(
                Recipe(
                    f"{name}-conv-{guide}",
                    f"{TITLES[guide]}, gated convolutions, z = 64",
                    "van den Berg, Hasenclever, Tomczak & Welling (2018), Sylvester Normalizing Flows",
                    (figures[guide], *(figure for other, figure in figures.items() if other != guide)),
                    protocol,
                    {
                        "latent": 64,
                        "encoder": NETWORK,
                        "decoder": NETWORK,
                        "guide": settings,
                        "data": data,
                        "inference": TRAINING,
                    },
                    FILES[name],
                    (*best, "Adam in place of Adamax"),
                    unlike=(unlike,) if unlike else (),
                )
            )
    return found


register(_recipes())
