"""Base experiments by data set, which all arms of a question share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from flowvae.core.errors import FlowvaeError, nearest, shown, shown_path
from flowvae.data import Pinwheel, Sprites, StaticMNIST
from flowvae.experiments.experiment import Experiment
from flowvae.inference import Cosine, Training
from flowvae.networks import MLP

__all__ = ["BASES", "base_on"]

BASES = {
    "digits": Experiment(),
    "pinwheel": Experiment(latent=2, data=Pinwheel(), inference=Training(epochs=300, batch_size=256, patience=40)),
    "sprites": Experiment(
        encoder=MLP((256,)),
        decoder=MLP((256,)),
        data=Sprites(test=1000),
        inference=Training(epochs=40, batch_size=128, learning_rate=3e-3, patience=10),
    ),
    "static-mnist": Experiment(
        latent=40,
        encoder=MLP((300, 300), gated=True),
        decoder=MLP((300, 300), gated=True),
        data=StaticMNIST(),
        # tuned on a part of the training images, as for the published recipes with these networks
        inference=Training(
            epochs=150, batch_size=100, schedule=Cosine(), kl_warmup=30, patience=150, validation_draws=1
        ),
    ),
}


def base_on(data: str, path: Path | None = None) -> Experiment:
    """Return the base experiment of a data set.

    Args:
        data: name of the data set.
        path: its file; None: its default location.

    Raises:
        FlowvaeError: for an unknown data set, and a path for data that are not read from a file.
    """
    if data not in BASES:
        raise FlowvaeError(
            f"data {shown(data)}: no base experiment; {nearest(data, BASES)} For other data, give an experiment: "
            "--config FILE, or answer(QUESTION, Experiment(…))."
        )
    base = BASES[data]
    if path is None:
        return base
    if not hasattr(base.data, "path"):
        raise FlowvaeError(f"path {shown_path(path)}: {data} is not read from a file; leave it out.")
    return replace(base, data=replace(base.data, path=path))  # type: ignore[type-var]
