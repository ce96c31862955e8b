"""Simulated images of one shape each, with known factors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Size, Tensor

from flowvae.core.errors import FlowvaeError, check_int, shown
from flowvae.core.memory import check_memory
from flowvae.core.parts import parse_likelihood
from flowvae.core.seeds import derive
from flowvae.data.dataset import Dataset, DataSpec

__all__ = ["SHAPES", "Sprites", "render"]

SHAPES = ("square", "ellipse", "heart")
SIDES = (16, 28)
FINE = 4  # a pixel is the number of its 4 × 4 points inside the shape: 0 to 16
CHUNK = 32  # images rendered at a time; they fit into the cache, which is five times as fast as 512 at a time


@dataclass(frozen=True)
class Sprites(DataSpec, name="sprites"):
    """Images of a square, an ellipse or a heart at any position, scale and angle; pixels are counts from 0 to 16.

    Data points are images of shape (1, side, side). All factors are uniform: the shape, the centre in the middle half
    of the image, the scale in [0.18, 0.32] of its side, the angle in [0, 2π). The codes of a good VAE therefore lie on
    three curved sheets and not in a Gaussian, and no image occurs twice. The test data are the same for every seed;
    the seed draws train and valid.

    Args:
        train: number of training images.
        valid: number of validation images.
        test: number of test images.
        side: height and width of an image, 16 or 28 pixels.
    """

    title: ClassVar[str] = "shapes at continuous position, scale and angle, factors known"

    train: int = 20_000
    valid: int = 2_000
    test: int = 2_000
    side: int = 16

    def __post_init__(self) -> None:
        for setting in ("train", "valid", "test", "side"):
            check_int(self, setting)
        if self.side not in SIDES:
            raise FlowvaeError(f"Sprites.side = {shown(self.side)}: must be 16 or 28.")

    @property
    def shape(self) -> Size:
        return Size((1, self.side, self.side))

    def load(self, seed: int) -> Dataset:
        needed = 8 * self.features * (self.train + self.valid + self.test)
        check_memory("Sprites", needed, "lower train, valid or test")
        images, factors = {}, {}
        for split, stream in (("train", seed), ("valid", seed), ("test", 0)):
            factors[split] = self.draw(getattr(self, split), derive(stream, "sprites", split))
            images[split] = render(factors[split], self.side)
        return Dataset(
            images["train"],
            images["valid"],
            images["test"],
            likelihood=parse_likelihood(f"binomial:{FINE**2}"),
            name="sprites",
            preprocessing=f"{self.side} × {self.side}, {FINE} × {FINE} points a pixel, counts 0 to {FINE**2}",
            split=f"simulated, test fixed, train and valid by seed {seed}",
            labels={split: values[:, 0].long() for split, values in factors.items()},
            factors=factors,
        )

    def draw(self, count: int, seed: int) -> Tensor:
        """Draw factors (count, 5): index of the shape, centre x and y and scale in sides of the image, angle."""
        generator = torch.Generator().manual_seed(seed)
        # of a fixed dtype, so that the images of a seed do not depend on torch's default
        uniform = torch.rand(count, 5, generator=generator, dtype=torch.float32)
        low = torch.tensor([0.0, 0.25, 0.25, 0.18, 0.0], dtype=torch.float32)
        width = torch.tensor([float(len(SHAPES)), 0.5, 0.5, 0.14, 2 * math.pi], dtype=torch.float32)
        factors = low + width * uniform
        factors[:, 0] = factors[:, 0].floor().clamp_max(len(SHAPES) - 1)
        return factors


def render(factors: Tensor, side: int) -> Tensor:
    """Render images of shape (N, 1, side, side), counts 0 to 16, from factors (N, 5)."""
    return torch.cat([_render(part, side) for part in factors.split(CHUNK)])


def _render(factors: Tensor, side: int) -> Tensor:
    _, x, y, scale, angle = factors.double().unsqueeze(-1).unbind(1)
    points = (torch.arange(side * FINE, dtype=torch.float64) + 0.5) / (side * FINE)
    down, across = torch.meshgrid(points, points, indexing="ij")
    across, down = across.flatten() - x, down.flatten() - y
    # coordinates of the shape, of size 1 and upright; u to the right, v upwards
    u = (angle.cos() * across + angle.sin() * down) / scale
    v = (angle.sin() * across - angle.cos() * down) / scale
    inside = torch.empty_like(u, dtype=torch.bool)
    for number, shape in enumerate((_square, _ellipse, _heart)):
        chosen = factors[:, 0] == number
        inside[chosen] = shape(u[chosen], v[chosen])
    fine = inside.reshape(-1, side, FINE, side, FINE)
    return fine.sum((2, 4)).unsqueeze(1).to(torch.get_default_dtype())


def _square(u: Tensor, v: Tensor) -> Tensor:
    return torch.maximum(u.abs(), v.abs()) <= 0.8


def _ellipse(u: Tensor, v: Tensor) -> Tensor:
    return u.square() + (v / 0.55).square() <= 1


def _heart(u: Tensor, v: Tensor) -> Tensor:
    """The sextic curve (a² + b² − 1)³ = a² b³, scaled to the size of the others."""
    a, b = (1.2 * u).square(), 1.2 * v + 0.1
    disc = a + b.square() - 1
    return disc * disc.square() <= a * b * b.square()
