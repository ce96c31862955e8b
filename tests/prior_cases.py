"""What tests of priors share: a density and a sampler in two dimensions, and small pairs of model and guide."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import Distribution

from flowvae import MLP, Experiment, Training

SMALL = Experiment(
    latent=2, encoder=MLP((16,)), decoder=MLP((16,)), inference=Training(epochs=2, batch_size=128, device="cpu")
)


def pair(*, spread: float = 20.0, scale: float = 0.2, **parts: Any) -> tuple[Any, Any, Tensor]:
    """Model, guide and training digits of a small experiment, with posteriors that differ, as after training.

    Args:
        spread: factor of the posteriors' means.
        scale: geometric mean of their standard deviations.
        parts: replace parts of the experiment.
    """
    experiment = replace(SMALL, **parts)
    data = experiment.data.load(0)
    model, guide = experiment.build(data)
    base = getattr(guide.head, "base", guide.head)
    with torch.no_grad():
        base.loc.weight.mul_(spread)
        base.log_scale.bias.fill_(torch.tensor(scale).log())
    return model, guide, data.train.to(torch.get_default_dtype())


@torch.no_grad()
def mass_and_error(p: Distribution, half: float = 8.0, points: int = 400, draws: int = 20_000) -> tuple[float, float]:
    """Integral of a density over [−half, half]², and the largest error of its draws.

    The error is that of the frequencies of 64 cells, in standard errors of an exact sampler.
    """
    side = torch.linspace(-half, half, points + 1)[:-1] + half / points
    z = torch.cartesian_prod(side, side)
    mass = p.log_prob(z).exp() * (2 * half / points) ** 2
    cells = mass.reshape(8, points // 8, 8, points // 8).sum((1, 3)).flatten()
    drawn = p.sample(Size((draws,)))
    column = ((drawn + half) / (2 * half) * 8).long().clamp(0, 7)
    counts = torch.bincount(column[:, 0] * 8 + column[:, 1], minlength=64).to(cells)
    error = (counts - draws * cells) / (draws * cells * (1 - cells)).clamp_min(1.0).sqrt()
    return mass.sum().item(), error.abs().max().item()
