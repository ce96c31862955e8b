"""Neal's funnel: Gaussians whose common scale is random, with a known density."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from flowvae.core.errors import check_int, check_number
from flowvae.core.seeds import seeded

__all__ = ["Funnel"]


class Funnel(nn.Module):
    """Neal's funnel: v ~ N(0, scale), x_i ~ N(0, e^{v/2}) for i = 1, …, D − 1.

    It is called without arguments and has no data. Sites "v" and "x", of event shape (D − 1,). The non-centred form
    samples "x_raw" ~ N(0, I) and makes x = e^{v/2} x_raw a deterministic site: the density that a guide has to fit is
    then Gaussian.

    The best mean-field guide of the centred form is known exactly (`mean_field`). It has far too small a variance of v.

    Args:
        dimension: D, of v and x together.
        scale: standard deviation of v.
        centred: whether to use the centred form.

    References:
        Neal (2003), "Slice sampling", section 8, with D = 10 and scale = 3.

    Raises:
        FlowvaeError: for a dimension below 2 or a scale that is not positive.
    """

    zero: Tensor

    def __init__(self, dimension: int = 10, scale: float = 3.0, centred: bool = True) -> None:
        super().__init__()
        self.dimension = dimension
        self.scale = scale
        self.centred = centred
        check_int(self, "dimension", least=2)
        check_number(self, "scale")
        self.register_buffer("zero", torch.zeros(()), persistent=False)  # carries dtype and device

    def forward(self) -> Tensor:
        """Run the model; returns x, shape (..., D − 1)."""
        v = pyro.sample("v", dist.Normal(self.zero, self.scale))
        width = (0.5 * v).exp().unsqueeze(-1)
        zeros = self.zero.expand(self.dimension - 1)
        if self.centred:
            return pyro.sample("x", dist.Normal(zeros, width).to_event(1))
        raw = pyro.sample("x_raw", dist.Normal(zeros, 1.0).to_event(1))
        return pyro.deterministic("x", width * raw, event_dim=1)

    def draw(self, size: int, seed: int) -> dict[str, Tensor]:
        """Draw independent exact samples: "v" of shape (size,) and "x" of shape (size, D − 1)."""
        with seeded(seed):
            v = self.scale * torch.randn(size, dtype=self.zero.dtype)
            x = (0.5 * v).exp().unsqueeze(-1) * torch.randn(size, self.dimension - 1, dtype=self.zero.dtype)
        return {"v": v.to(self.zero.device), "x": x.to(self.zero.device)}

    def log_density(self, v: Tensor, x: Tensor) -> Tensor:
        """Compute log p(v, x) of the centred variables exactly, in nats, shapes (...) and (..., D − 1) → (...)."""
        width = (0.5 * v).exp().unsqueeze(-1)
        return dist.Normal(self.zero, self.scale).log_prob(v) + dist.Normal(self.zero, width).log_prob(x).sum(-1)

    def mean_field(self) -> tuple[float, float]:
        """Compute the best mean-field Gaussian guide: standard deviations of q(v) and of every q(x_i).

        Both have mean 0. With s² = 1 / (1/scale² + (D − 1)/2) they are s and e^{−s²/4}: where the ELBO is
        stationary, e^{−v} x_i² is 1 on average for every i, and each x_i adds ½ to the precision of v.
        """
        square = 1 / (1 / self.scale**2 + (self.dimension - 1) / 2)
        return math.sqrt(square), math.exp(-0.25 * square)

    def mean_field_gap(self) -> float:
        """Compute KL(q ‖ p) of `mean_field` in nats: ½ log(1 + (D − 1) scale²/2)."""
        return 0.5 * math.log1p((self.dimension - 1) * self.scale**2 / 2)
