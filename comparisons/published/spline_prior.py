"""Neural spline flows as prior, and as prior and posterior, with z = 32: Durkan et al. (2019)."""

from __future__ import annotations

from typing import Any

from flowvae.comparisons.published.data_sets import DYNAMIC_MNIST, FILES, REDRAWN
from flowvae.comparisons.published.recipe import Protocol, Published, Recipe, register

__all__ = ["TRAINING"]

# 150,000 steps of 256 in the paper: 768 epochs of 50,000 images
TRAINING: dict[str, Any] = {
    "epochs": 768,
    "batch_size": 256,
    "learning_rate": 5e-4,
    "schedule": "cosine",
    "kl_warmup": 50,
    "patience": 768,
    "validation_draws": 1,
}
NETWORK: dict[str, Any] = {
    "family": "resnet",
    "channels": [32, 64, 128],
    "features": 64,
    "blocks": 1,
    "stem": 16,
    "normalization": "none",
}
COUPLING: dict[str, Any] = {"family": "coupling-nsf", "transforms": 10, "hidden_features": [256, 256], "bins": 8}
AUTOREGRESSIVE: dict[str, Any] = {"family": "nsf", "transforms": 5, "hidden_features": [256, 256], "bins": 8}
AFFINE: dict[str, Any] = {"affine": True}  # brings codes into the splines' box

PROTOCOL = Protocol("dynamically binarized MNIST", REDRAWN, 10_000, draws=1000)
SOURCE = "Durkan, Bekasov, Murray & Papamakarios (2019), Neural Spline Flows"
COUPLED = Published(79.63, "coupling splines, prior and posterior", "†")
MASKED = Published(79.71, "autoregressive splines, prior and posterior", "†")
NONE = Published(81.3, "no flow (≈)", "†")
DIFFERS = (
    "one residual block less on the smallest map, and no residual connections past the strides",
    "KL weight grows from 0 over 50 epochs, in the paper from 0.5",
    "the best epoch on valid is measured, in the paper the last",
)


def _recipe(name: str, title: str, published: tuple[Published, ...], *differs: str, **parts: Any) -> Recipe:
    experiment = {
        "latent": 32,
        "encoder": NETWORK,
        "decoder": NETWORK,
        **parts,
        "data": DYNAMIC_MNIST,
        "inference": TRAINING,
    }
    return Recipe(
        f"dynamic-mnist-{name}",
        f"{title}, residual networks, z = 32",
        SOURCE,
        published,
        PROTOCOL,
        experiment,
        FILES["mnist"],
        (*differs, *DIFFERS),
    )


register(
    [
        _recipe("resnet-normal", "N(0, I)", (NONE, COUPLED, MASKED), prior={"family": "normal"}),
        _recipe(
            "nsf",
            "autoregressive splines as prior and posterior",
            (MASKED, COUPLED, NONE),
            prior=AUTOREGRESSIVE | AFFINE,
            guide=AUTOREGRESSIVE | {"family": "inverse-nsf"},
        ),
        _recipe(
            "coupling-nsf",
            "coupling splines as prior and posterior",
            (COUPLED, MASKED, NONE),
            prior=COUPLING | AFFINE,
            guide=COUPLING,
        ),
    ]
)
