"""Two moons: points in the plane with a known density."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Size, Tensor

from flowvae.core.errors import check_int, check_number
from flowvae.core.memory import check_memory
from flowvae.core.parts import parse_likelihood
from flowvae.core.seeds import derive
from flowvae.data.dataset import Dataset, DataSpec

__all__ = ["Moons"]


@dataclass(frozen=True)
class Moons(DataSpec, name="moons"):
    """scikit-learn's two half circles in the plane with Gaussian noise, half of the data on each.

    The first moon is (cos t, sin t), the second (1 − cos t, ½ − sin t), t ∈ [0, π]. Test data are the same for
    every seed; the seed draws train and valid. A flow models the points themselves; for a VAE the likelihood is
    Gaussian with a learned scale.

    scikit-learn puts t on an even grid and shuffles; `log_evidence` is the density for uniform t, which the grid of
    n points approximates to order 1/n.

    Args:
        train: number of training points, two or more.
        valid: number of validation points, two or more.
        test: number of test points, two or more.
        noise: standard deviation around the half circles.
    """

    title: ClassVar[str] = "two moons in the plane, exact density known"

    train: int = 4_000
    valid: int = 1_000
    test: int = 2_000
    noise: float = 0.1

    def __post_init__(self) -> None:
        for split in ("train", "valid", "test"):
            check_int(self, split, least=2)
        check_number(self, "noise")

    @property
    def shape(self) -> Size:
        return Size((2,))

    def load(self, seed: int) -> Dataset:
        from sklearn.datasets import make_moons  # slow to import

        check_memory("Moons", 64 * (self.train + self.valid + self.test), "lower train, valid or test")
        parts = {}
        for split, stream in (("train", seed), ("valid", seed), ("test", 0)):
            # NumPy's seeds have 32 bits
            state = derive(stream, "moons", split) % 2**32
            x, moon = make_moons(getattr(self, split), noise=self.noise, random_state=state)
            parts[split] = torch.tensor(x, dtype=torch.get_default_dtype()), torch.tensor(moon)
        return Dataset(
            parts["train"][0],
            parts["valid"][0],
            parts["test"][0],
            likelihood=parse_likelihood("gaussian"),
            name="moons",
            preprocessing=f"none (radius 1, noise {self.noise:g})",
            split=f"simulated, test fixed, train and valid by seed {seed}",
            labels={split: moon for split, (_, moon) in parts.items()},
            log_evidence=self.log_evidence,
        )

    def log_evidence(self, x: Tensor, panel: float = 2.0) -> Tensor:
        """Exact log p(x) in nats, shape (N,), by Gauss–Legendre quadrature along the two half circles.

        Args:
            x: data, shape (N, 2).
            panel: length of a quadrature panel of ten nodes along a circle, in standard deviations of the noise.
        """
        panels = math.ceil(math.pi / (panel * self.noise))
        nodes, weights = _legendre(10)
        edge = math.pi / panels
        t = (edge * (torch.arange(panels, dtype=torch.float64)[:, None] + nodes)).flatten()
        log_weight = (weights / panels / 2).log().repeat(panels)
        first = torch.stack((t.cos(), t.sin()), -1)
        second = torch.stack((1 - t.cos(), 0.5 - t.sin()), -1)
        constant = math.log(2 * math.pi * self.noise**2)
        parts = []
        for block in x.double().split(1024):
            logs = [
                log_weight - ((block[:, None] - curve) ** 2).sum(-1) / (2 * self.noise**2) for curve in (first, second)
            ]
            parts.append(torch.cat(logs, -1).logsumexp(-1) - constant)
        return torch.cat(parts)


def _legendre(count: int) -> tuple[Tensor, Tensor]:
    """Gauss–Legendre nodes in (0, 1), and weights that sum to 1."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return torch.tensor((nodes + 1) / 2), torch.tensor(weights / 2)
