"""One-level VAEs with gated MLPs of 2×300 units and z = 40: Tomczak & Welling (2018), Norouzi et al. (2020).

`TRAINING` and `PRIORS` contain all settings that are not published.
"""

from __future__ import annotations

from typing import Any

from flowvae.comparisons.published.data_sets import DYNAMIC_MNIST, FASHION_BITS, FILES, FIXED_MNIST, LAROCHELLE, REDRAWN
from flowvae.comparisons.published.recipe import Protocol, Published, Recipe, register

__all__ = ["PRIORS", "TRAINING"]

# Tuned on 45,000 of the training images of fixed-binarized MNIST against the other 5,000. The papers train for up to
# 2000 epochs at a constant 5e-4, with 100 epochs of warm-up and a patience of 50.
TRAINING: dict[str, Any] = {
    "epochs": 150,
    "batch_size": 100,
    "learning_rate": 1e-3,
    "schedule": "cosine",
    "kl_warmup": 30,
    "patience": 150,  # never: the cosine ends the training, and the best epoch is kept
    "validation_draws": 1,
}
PRIORS: dict[str, dict[str, Any]] = {
    "normal": {"family": "normal"},
    "vamp": {"family": "vamp", "components": 500, "start": "mean"},
    "exemplar": {"family": "exemplar", "neighbours": 10, "exemplars": 25_000},
    "maf": {"family": "maf", "transforms": 4, "hidden_features": [256, 256]},
    "nsf": {"family": "nsf", "transforms": 4, "hidden_features": [300, 300], "bins": 8, "affine": True},
}
NETWORK: dict[str, Any] = {"family": "mlp", "hidden_features": [300, 300], "gated": True}

TITLES = {
    "normal": "N(0, I)",
    "vamp": "VampPrior of 500 pseudo-inputs",
    "exemplar": "exemplar prior",
    "maf": "MAF prior",
    "nsf": "autoregressive spline prior",
}
ADAM = "Adam in place of Adam on normalized gradients"
INPUTS = "networks see standardized pixels"

PUBLISHED = {  # index in `SETS` of the published figure for a prior; flows are compared with the VampPrior
    "normal": 0,
    "exemplar": 2,
}
VAMP = 1
DIFFERS = {  # differences in the prior itself
    "vamp": ("pseudo-inputs start at the mean image",),
    "exemplar": (
        "exemplars are one fixed binarization of the training images",
        "codes of all exemplars are cached once per epoch",
    ),
    "maf": ("MAF prior in place of the VampPrior",),
    "nsf": ("autoregressive spline prior in place of the VampPrior",),
}

TOMCZAK = "Tomczak & Welling (2018), VAE with a VampPrior"
NOROUZI = "Norouzi, Fleet & Norouzi (2020), Exemplar VAE"
SETS: dict[str, tuple[dict[str, Any], Protocol, str, tuple[Published, ...]]] = {
    # data, protocol, source, figures of N(0, I), the VampPrior and others
    "static-mnist": (
        FIXED_MNIST,
        Protocol("fixed-binarized MNIST", LAROCHELLE, 10_000),
        TOMCZAK,
        (Published(88.56, "N(0, I)", "†"), Published(85.57, "VampPrior")),
    ),
    "dynamic-mnist": (
        DYNAMIC_MNIST,
        Protocol("dynamically binarized MNIST", REDRAWN, 10_000),
        NOROUZI,
        (
            Published(84.45, "N(0, I)", spread=0.12),
            Published(82.43, "VampPrior"),
            Published(82.09, "exemplar prior", spread=0.18),
        ),
    ),
    "fashion-mnist": (
        FASHION_BITS,
        Protocol("dynamically binarized Fashion-MNIST", REDRAWN, 10_000),
        NOROUZI,
        (
            Published(228.70, "N(0, I)", spread=0.15),
            Published(227.35, "VampPrior"),
            Published(226.75, "exemplar prior", spread=0.07),
        ),
    ),
}
TAKEN = {"dynamic-mnist-nsf"}  # a recipe of `spline_prior` has this name


def _recipe(name: str, prior: str) -> Recipe:
    data, protocol, source, figures = SETS[name]
    own = figures[PUBLISHED.get(prior, VAMP)]
    return Recipe(
        f"{name}-{prior}",
        f"{TITLES[prior]}, gated MLP 2×300, z = 40",
        source,
        (own, *(figure for figure in figures if figure is not own)),
        protocol,
        {
            "latent": 40,
            "encoder": NETWORK,
            "decoder": NETWORK,
            "prior": PRIORS[prior],
            "data": data,
            "inference": TRAINING,
        },
        FILES[data["family"]],
        (*DIFFERS.get(prior, ()), ADAM, INPUTS),
    )


register(
    _recipe(name, prior)
    for name, (*_, figures) in SETS.items()
    for prior in PRIORS
    if f"{name}-{prior}" not in TAKEN and PUBLISHED.get(prior, VAMP) < len(figures)
)
