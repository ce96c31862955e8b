"""A 2-D pinwheel observed through a fixed random network, with a known exact evidence."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Size, Tensor

from flowvae.core.errors import check_int
from flowvae.core.memory import check_memory
from flowvae.core.parts import parse_likelihood
from flowvae.core.seeds import derive
from flowvae.data.dataset import Dataset, DataSpec

__all__ = ["Pinwheel"]

ARMS = 5
RADIAL, TANGENTIAL = 0.3, 0.05  # standard deviations along and across an arm
TWIST = 0.25
STRETCH = 2.0  # brings the pinwheel to about unit variance in each latent dimension
OBSERVED = 16
HIDDEN = 32
NOISE = 0.1


@dataclass(frozen=True)
class Pinwheel(DataSpec, name="pinwheel"):
    """x = f(z) + 0.1 ε in 16 dimensions, z on a pinwheel of five arms, f a fixed random tanh network.

    The pinwheel and f are the same for every seed, and so are the test data; the seed draws train and valid.
    An arm is a Gaussian (r, t), shifted outwards by 1 and rotated by an angle that grows with e^r, after
    Johnson et al. (2016), "Composing graphical models with neural networks".

    Args:
        train: number of training points.
        valid: number of validation points.
        test: number of test points.
    """

    title: ClassVar[str] = "2-D pinwheel observed in 16 dimensions, exact evidence known"

    train: int = 10_000
    valid: int = 2_000
    test: int = 2_000

    def __post_init__(self) -> None:
        for split in ("train", "valid", "test"):
            check_int(self, split)

    @property
    def shape(self) -> Size:
        return Size((OBSERVED,))

    def load(self, seed: int) -> Dataset:
        needed = 24 * OBSERVED * (self.train + self.valid + self.test)
        check_memory("Pinwheel", needed, "lower train, valid or test")
        parts = {}
        for split, stream in (("train", seed), ("valid", seed), ("test", 0)):
            parts[split] = self.simulate(getattr(self, split), derive(stream, "pinwheel", split))
        return Dataset(
            parts["train"][0],
            parts["valid"][0],
            parts["test"][0],
            likelihood=parse_likelihood(f"gaussian:{NOISE}"),
            name="pinwheel",
            preprocessing=f"{OBSERVED} dimensions, noise {NOISE:g}",
            split=f"simulated, test fixed, train and valid by seed {seed}",
            labels={split: arm for split, (_, _, arm) in parts.items()},
            log_evidence=self.log_evidence,
        )

    def simulate(self, count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """Simulate data x (count, 16); returns them with their codes z (count, 2) and arms (count,)."""
        generator = torch.Generator().manual_seed(seed)
        arm = torch.randint(ARMS, (count,), generator=generator)
        along, across = torch.randn(2, count, generator=generator, dtype=torch.float64)
        z = rotate(RADIAL * along, TANGENTIAL * across, arm)
        noise = torch.randn(count, OBSERVED, generator=generator, dtype=torch.float64)
        x = decode(z) + NOISE * noise
        return x.to(torch.get_default_dtype()), z.to(torch.get_default_dtype()), arm

    def log_evidence(self, x: Tensor, step: float = 0.25, reach: float = 6.0) -> Tensor:
        """Exact log p(x) in nats, shape (N,), by the trapezoidal rule over the two latent dimensions.

        The integral runs over (r, t), in which the prior is Gaussian: its density times p(x | z) is smooth
        and vanishes at the edge, so the rule converges faster than any power of the step.

        Args:
            x: data, shape (N, 16).
            step: distance of the nodes across an arm, in standard deviations; nodes along an arm are equally dense
                in z.
            reach: half-width of the grid, in standard deviations.
        """
        across = torch.arange(-reach, reach + step / 2, step, dtype=torch.float64)
        finer = step * TANGENTIAL / RADIAL
        along = torch.arange(-reach, reach + finer / 2, finer, dtype=torch.float64)
        grid = torch.cartesian_prod(along, across)
        log_weight = -0.5 * (grid**2).sum(-1) - math.log(2 * math.pi) + math.log(step * finer) - math.log(ARMS)
        constant = -OBSERVED * math.log(NOISE * math.sqrt(2 * math.pi))
        data = x.double() / NOISE
        total = torch.full((len(x),), -torch.inf, dtype=torch.float64)
        for arm in range(ARMS):
            z = rotate(RADIAL * grid[:, 0], TANGENTIAL * grid[:, 1], torch.full((len(grid),), arm))
            centre = decode(z) / NOISE
            offset = log_weight - 0.5 * (centre**2).sum(-1)
            for start in range(0, len(grid), 8192):
                part = slice(start, start + 8192)
                terms = data @ centre[part].T + offset[part]
                total = torch.logaddexp(total, terms.logsumexp(-1))
        return total + constant - 0.5 * (data**2).sum(-1)


def rotate(along: Tensor, across: Tensor, arm: Tensor) -> Tensor:
    """Map coordinates (r, t) of an arm to z, shape (..., 2)."""
    out = along + 1
    angle = 2 * math.pi * arm / ARMS + TWIST * out.exp()
    cos, sin = angle.cos(), angle.sin()
    return STRETCH * torch.stack((cos * out - sin * across, sin * out + cos * across), -1)


def decode(z: Tensor) -> Tensor:
    """Apply the fixed network f: z (..., 2) → (..., 16), float64."""
    generator = torch.Generator().manual_seed(20160603)
    first, second = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((HIDDEN, 2), (OBSERVED, HIDDEN))
    )
    bias = torch.randn(HIDDEN, generator=generator, dtype=torch.float64)
    return torch.tanh(z.double() @ first.T / 2 + bias) @ second.T / math.sqrt(HIDDEN)
