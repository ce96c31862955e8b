"""Codes of image shape (C, H, W), with an image flow as prior."""

from flowvae import Conv, Experiment, Glow


def experiment() -> Experiment:
    """Digits with codes of shape (4, 4, 4)."""
    return Experiment(latent=(4, 4, 4), prior=Glow(levels=1, steps=2), encoder=Conv(), decoder=Conv())
