"""A RealNVP prior with residual networks and z = 40: Xu et al. (2019), arXiv 1905.13452."""

from __future__ import annotations

from typing import Any

from flowvae.comparisons.published.data_sets import FILES, FIXED_MNIST, LAROCHELLE
from flowvae.comparisons.published.recipe import Protocol, Published, Recipe, register

__all__ = ["TRAINING"]

TRAINING: dict[str, Any] = {
    "epochs": 600,
    "batch_size": 128,
    "learning_rate": 1e-3,
    "schedule": "cosine",
    "kl_warmup": 100,
    "patience": 100,
    "validation_draws": 1,
}
NETWORK: dict[str, Any] = {"family": "resnet", "channels": [32, 64], "stem": 32, "activation": "elu"}
PRIORS: dict[str, dict[str, Any]] = {
    "normal": {"family": "normal"},
    "realnvp": {"family": "realnvp", "transforms": 20, "hidden_features": [256, 256]},
}
PROTOCOL = Protocol("fixed-binarized MNIST", LAROCHELLE, 10_000, draws=1000)
PUBLISHED = {
    "realnvp": Published(79.99, "RealNVP prior", "‡"),
    "normal": Published(82.95, "N(0, I)", "‡"),
    "posterior": Published(80.97, "RealNVP posterior, N(0, I)", "‡"),
}

register(
    Recipe(
        f"static-mnist-resnet-{prior}",
        f"{'N(0, I)' if prior == 'normal' else 'RealNVP prior'}, residual networks, z = 40",
        "Xu et al. (2019), On the Necessity and Effectiveness of Learning the Prior of VAE",
        (PUBLISHED[prior], *(figure for name, figure in PUBLISHED.items() if name != prior)),
        PROTOCOL,
        {
            "latent": 40,
            "encoder": NETWORK,
            "decoder": NETWORK,
            "prior": settings,
            "data": FIXED_MNIST,
            "inference": TRAINING,
        },
        FILES["static-mnist"],
        ("sizes of the residual networks and of the flow, and the training, are this project's",),
    )
    for prior, settings in PRIORS.items()
)
