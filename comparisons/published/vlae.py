"""Variational lossy autoencoder: Chen et al. (2017), arXiv 1611.02731.

The paper has three models with the same residual network: an autoregressive flow in the posterior, in the prior, and in
the prior of a model whose decoder is a PixelCNN with a small receptive field.
"""

from __future__ import annotations

from typing import Any

from flowvae.comparisons.published.data_sets import FILES, FIXED_MNIST, LAROCHELLE
from flowvae.comparisons.published.recipe import Protocol, Published, Recipe, register

__all__ = ["NETWORK", "TRAINING"]

TRAINING: dict[str, Any] = {
    "epochs": 200,
    "batch_size": 100,
    "learning_rate": 1e-3,
    "schedule": "cosine",
    "kl_warmup": 40,
    "patience": 200,  # never: the cosine ends the training, and the best epoch is kept
    "validation_draws": 1,
}
NETWORK: dict[str, Any] = {"family": "resnet", "channels": [32, 64], "stem": 32, "activation": "elu"}
FLOW: dict[str, Any] = {"transforms": 4, "hidden_features": [256, 256]}
PRIOR: dict[str, Any] = {"family": "maf", **FLOW}
DECODER = "pixelcnn:1:features=32:layers=4:field=3"  # sees 3 pixels to the left and 5 columns of 3 rows above

PROTOCOL = Protocol("fixed-binarized MNIST", LAROCHELLE, 10_000, draws=4096)
PUBLISHED = {
    "vlae": Published(79.03, "autoregressive flow prior, PixelCNN decoder"),
    "af-prior": Published(79.30, "autoregressive flow prior"),
    "iaf-posterior": Published(79.88, "IAF posterior"),
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "vlae": ("autoregressive flow prior, PixelCNN decoder of radius 3", {"prior": PRIOR, "likelihood": DECODER}),
    "af-prior": ("autoregressive flow prior", {"prior": PRIOR}),
    "iaf-posterior": ("IAF posterior", {"guide": {"family": "iaf", **FLOW}}),
}


def _recipe(name: str) -> Recipe:
    title, parts = MODELS[name]
    data = {**FIXED_MNIST, **({"likelihood": parts["likelihood"]} if "likelihood" in parts else {})}
    return Recipe(
        f"static-mnist-{name}",
        f"{title}, residual networks, z = 64",
        "Chen et al. (2017), Variational Lossy Autoencoder",
        (PUBLISHED[name], *(figure for other, figure in PUBLISHED.items() if other != name)),
        PROTOCOL,
        {
            "latent": 64,
            "encoder": NETWORK,
            "decoder": NETWORK,
            **{part: settings for part, settings in parts.items() if part != "likelihood"},
            "data": data,
            "inference": TRAINING,
        },
        FILES["static-mnist"],
        (
            "sizes of the residual networks, of the flow and of the PixelCNN, and the training, are this project's",
            "no free bits",
        ),
    )


register(_recipe(name) for name in MODELS)
