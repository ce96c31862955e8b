"""One-level VAEs with gated MLPs of 2×300 units and z = 40: Tomczak & Welling (2018), Norouzi et al. (2020).

`TRAINING` and `PRIORS` are the one place of all settings that are not published.
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
    "maf": {"family": "maf", "transforms": 4, "hidden_features": [256, 256]},
    "nsf": {"family": "nsf", "transforms": 4, "hidden_features": [300, 300], "bins": 8, "affine": True},
}
NETWORK: dict[str, Any] = {"family": "mlp", "hidden_features": [300, 300], "gated": True}

TITLES = {"normal": "N(0, I)", "maf": "MAF prior", "nsf": "autoregressive spline prior"}
ADAM = "Adam in place of Adam on normalized gradients"
INPUTS = "networks see standardized pixels"

VAMP = "vamp"  # the name of the prior of both papers; an entry in `PRIORS` and `TITLES` makes its recipes

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
TAKEN = {"dynamic-mnist-nsf"}  # stands beside the figures of Durkan et al.


def _recipe(name: str, prior: str) -> Recipe:
    data, protocol, source, (normal, vamp, *others) = SETS[name]
    flow = () if prior in ("normal", VAMP) else (f"{TITLES[prior]} in place of the VampPrior",)
    return Recipe(
        f"{name}-{prior}",
        f"{TITLES[prior]}, gated MLP 2×300, z = 40",
        source,
        (normal, vamp, *others) if prior == "normal" else (vamp, normal, *others),
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
        (*flow, ADAM, INPUTS),
    )


register(_recipe(name, prior) for name in SETS for prior in PRIORS if f"{name}-{prior}" not in TAKEN)
