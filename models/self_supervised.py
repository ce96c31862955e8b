"""The self-supervised VAE: a small version of an image is generated first, and the image given it."""

from __future__ import annotations

import pyro
import torch
from torch import Size, Tensor, nn
from torch.nn.functional import avg_pool2d
from zuko.lazy import LazyDistribution

from flowvae.core.errors import FlowvaeError, check_int_value
from flowvae.flows.pyro_adapter import to_pyro
from flowvae.models.checks import batch_size
from flowvae.models.vae import VAE
from flowvae.networks import check_data, declare_parameters, fold

__all__ = ["Downscale", "SelfSupervisedVAE"]


class Downscale(nn.Module):
    """The means of blocks of pixels, rounded to whole numbers (halves up): (..., C, H, W) → (..., C, H/f, W/f).

    Of bits it is the majority, of grey levels the rounded mean, which are data of the same likelihood.

    Args:
        factor: f, the side of a block.

    Raises:
        FlowvaeError: for a factor below 2, and for images whose sides it does not divide.
    """

    def __init__(self, factor: int = 2) -> None:
        super().__init__()
        check_int_value("factor", factor, least=2)
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        shape = self.shape(x.shape[-3:])
        rows = x.reshape(-1, *x.shape[-3:])
        return (avg_pool2d(rows, self.factor) + 0.5).floor().reshape(*x.shape[:-3], *shape)

    def shape(self, shape: Size) -> Size:
        """Return the shape of the small version of an image (C, H, W)."""
        if len(shape) != 3 or shape[1] % self.factor or shape[2] % self.factor:
            raise FlowvaeError(
                f"data of shape {tuple(shape)} with factor = {self.factor}: must be images (C, H, W) whose sides it "
                "divides; crop them, or use another factor."
            )
        return Size((shape[0], shape[1] // self.factor, shape[2] // self.factor))


class SelfSupervisedVAE(nn.Module):
    r"""u ~ p(u), y ~ p(y given u), z ~ p(z given y, u), x ~ p(x given z, y), where y = d(x) is observed.

    y is a deterministic, discrete function of x, such as a small version of an image. Since the pair (x, d(x)) is one
    of those that the model can generate, log p(x, d(x)) is a lower bound of log p(x); the ELBO with the guide
    q(u given d(x)) q(z given x) bounds both. Sites are "u", "y", "z" and "x" in a plate "data".

    Args:
        upper: the VAE of y, whose prior has a density.
        prior: p(z given (y, u)), a lazy distribution that reads y, flat and in `scale`, and u, concatenated.
        decoder: a network (N, D), (N, values of y) → (N, *parameter shape).
        likelihood: of x.
        downscale: d, a module (..., *event) → (..., *event of y).
        scale: what networks see of y is (y − center) / unit: a pair of numbers.

    References:
        Gatopoulos & Tomczak (2021), "Self-Supervised Variational Auto-Encoders".
    """

    def __init__(
        self,
        upper: VAE,
        prior: LazyDistribution,
        decoder: nn.Module,
        likelihood: LazyDistribution,
        downscale: nn.Module,
        scale: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        super().__init__()
        if hasattr(upper.prior, "statements"):
            raise FlowvaeError("upper: its prior has latent variables; use one with a density, such as a flow.")
        self.upper = upper
        self.prior = prior
        self.decoder = decoder
        self.likelihood = likelihood
        self.downscale = downscale
        self.scale = scale

    @property
    def latent_sites(self) -> tuple[str, ...]:
        """Names of the latent sites, in the order in which they are drawn."""
        return ("u", "z")

    @property
    def low_precision(self) -> tuple[nn.Module, ...]:
        """Networks that may run in lower precision."""
        return (self.upper.decoder, self.decoder)

    def forward(self, x: Tensor | None = None, size: int | None = None) -> Tensor:
        """Run the model: observe x of shape (N, *event), or generate `size` new data points.

        Raises:
            FlowvaeError: if neither is given, or for data of another shape or type.
        """
        declare_parameters("model", self)
        with pyro.plate("data", batch_size(x, size, self)):
            u = pyro.sample("u", to_pyro(self.upper.prior_given()))
            small = self.upper.decode(u)
            y = pyro.sample("y", small, obs=None if x is None else self.downscale(x))
            seen = self._seen(y, len(small.event_shape), u.shape[:-1])
            z = pyro.sample("z", to_pyro(self.prior(torch.cat((seen, u), -1))))
            given = self.likelihood(fold(self.decoder, z, 1, seen))
            if x is not None:
                check_data("x", x, given.event_shape)
            return pyro.sample("x", given, obs=x)

    def _seen(self, y: Tensor, inner: int, batch: Size) -> Tensor:
        """Y as networks see it, flat, with the batch shape of u."""
        center, unit = self.scale
        flat = ((y - center) / unit).flatten(-inner)
        return flat.expand(*batch, flat.shape[-1])
