"""The banana: a Gaussian bent along a parabola."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from flowvae.core.errors import check_number
from flowvae.core.seeds import seeded

__all__ = ["Banana"]


class Banana(nn.Module):
    """Banana-shaped density: x ~ N(0, width), y ~ N(bend (x² − width²), thickness).

    It is called without arguments and has no data; sites "x" and "y". The bend has a Jacobian determinant of 1, so the
    density is known in closed form. E[y] = 0, and x and y are uncorrelated, though far from independent. One additive
    coupling whose shift is a parabola maps it to a Gaussian.

    Args:
        width: standard deviation of x.
        bend: curvature; 0 gives a Gaussian, a negative value bends it down.
        thickness: standard deviation of y around the parabola.

    References:
        Haario, Saksman & Tamminen (1999), "Adaptive proposal distribution for random walk Metropolis algorithm".

    Raises:
        FlowvaeError: for a width or thickness that is not positive, or a bend that is not finite.
    """

    zero: Tensor

    def __init__(self, width: float = 2.0, bend: float = 0.5, thickness: float = 0.5) -> None:
        super().__init__()
        self.width = width
        self.bend = bend
        self.thickness = thickness
        check_number(self, "width")
        check_number(self, "thickness")
        check_number(self, "bend", above=-float("inf"))
        self.register_buffer("zero", torch.zeros(()), persistent=False)  # carries dtype and device

    def forward(self) -> Tensor:
        """Run the model; returns y, shape (...)."""
        x = pyro.sample("x", dist.Normal(self.zero, self.width))
        return pyro.sample("y", dist.Normal(self.ridge(x), self.thickness))

    def ridge(self, x: Tensor) -> Tensor:
        """Evaluate the parabola bend (x² − width²), shape (...) → (...)."""
        return self.bend * (x**2 - self.width**2)

    def draw(self, size: int, seed: int) -> dict[str, Tensor]:
        """Draw independent exact samples "x" and "y", each of shape (size,)."""
        with seeded(seed):
            unit = torch.randn(2, size, dtype=self.zero.dtype).to(self.zero.device)
        x = self.width * unit[0]
        return {"x": x, "y": self.ridge(x) + self.thickness * unit[1]}

    def log_density(self, x: Tensor, y: Tensor) -> Tensor:
        """Compute log p(x, y) exactly, in nats, shapes (...) → (...)."""
        along = dist.Normal(self.zero, self.width).log_prob(x)
        return along + dist.Normal(self.ridge(x), self.thickness).log_prob(y)
