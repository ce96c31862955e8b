"""The self-supervised VAE, which generates a downscaled image first and then the image given it."""

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
    """Block means of images, rounded to whole numbers (halves up): (..., C, H, W) → (..., C, H/f, W/f).

    The result has the same kind of values as the image: the majority of bits, the rounded mean of grey levels.

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
    r"""Self-supervised VAE: u ~ p(u), y ~ p(y | u), z ~ p(z | y, u), x ~ p(x | z, y), with y = d(x) observed.

    y is a deterministic, discrete function of x, such as a small version of an image. Since p(x) is the sum of p(x, y)
    over all y, log p(x, d(x)) is a lower bound of log p(x). The ELBO with the guide q(u | d(x)) q(z | x) is a lower
    bound of both. Sites are "u", "y", "z" and "x" in a plate "data".

    Args:
        upper: the VAE of y, whose prior has a density.
        prior: p(z | y, u), a lazy distribution whose context is y, flat and standardized by `scale`, and u.
        decoder: a network (N, D), (N, values of y) → (N, *parameter shape).
        likelihood: p(x | z, y), given the decoder's outputs.
        downscale: d, a module (..., *event) → (..., *event of y).
        scale: center and unit of y; networks read (y − center) / unit.

    Raises:
        FlowvaeError: if the prior of `upper` has latent variables.

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
            FlowvaeError: if neither is given, for data of another shape or type, or if y has a density.
        """
        declare_parameters("model", self)
        with pyro.plate("data", batch_size(x, size, self)):
            u = pyro.sample("u", to_pyro(self.upper.prior_given()))
            small = self.upper.decode(u)
            if not small.support.is_discrete:
                raise FlowvaeError("upper: its likelihood is a density, and y = d(x) is discrete; use one of counts.")
            known = None if x is None else check_data("downscale(x)", self.downscale(x), small.event_shape)
            y = pyro.sample("y", small, obs=known)
            seen = self._seen(y, len(small.event_shape), u.shape[:-1])
            z = pyro.sample("z", to_pyro(self.prior(torch.cat((seen, u), -1))))
            given = self.likelihood(fold(self.decoder, z, 1, seen))
            if x is not None:
                check_data("x", x, given.event_shape)
            return pyro.sample("x", given, obs=x)

    def _seen(self, y: Tensor, inner: int, batch: Size) -> Tensor:
        """Standardize and flatten y, and expand it to the batch shape of u."""
        center, unit = self.scale
        flat = ((y - center) / unit).flatten(-inner)
        return flat.expand(*batch, flat.shape[-1])
