"""The guide of a self-supervised VAE."""

from __future__ import annotations

import pyro
from torch import Tensor, nn

from flowvae.guides.amortized import AmortizedGuide
from flowvae.networks import declare_parameters

__all__ = ["SelfSupervisedGuide"]


class SelfSupervisedGuide(nn.Module):
    """Guide u ~ q(u | d(x)), z ~ q(z | x) of `flowvae.models.SelfSupervisedVAE`.

    Args:
        upper: the guide of y = d(x).
        lower: the guide of x.
        downscale: d.
    """

    def __init__(self, upper: AmortizedGuide, lower: AmortizedGuide, downscale: nn.Module) -> None:
        super().__init__()
        self.upper = upper
        self.lower = lower
        self.downscale = downscale

    @property
    def low_precision(self) -> tuple[nn.Module, ...]:
        """Networks that may run in lower precision."""
        return (*self.upper.low_precision, *self.lower.low_precision)

    def forward(self, x: Tensor, size: int | None = None) -> None:
        """Run the guide for data of shape (N, *event); takes the model's arguments, as Pyro requires.

        Raises:
            FlowvaeError: for data of another shape or type.
        """
        self.lower.check(x)
        declare_parameters("guide", self)
        above, below = self.upper.posterior(self.downscale(x)), self.lower.posterior(x)
        with pyro.plate("data", len(x)):
            pyro.sample("u", above)
            pyro.sample("z", below)
