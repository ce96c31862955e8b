"""The variational autoencoder as a Pyro model."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from zuko.lazy import LazyDistribution

from flowvae.data.likelihoods import Likelihood
from flowvae.flows.pyro_adapter import to_pyro
from flowvae.models.checks import batch_size
from flowvae.networks import check_rows, declare_parameters, in_eval_mode

__all__ = ["VAE"]


class VAE(nn.Module):
    """z ~ p(z), x ~ p(x | decoder(z)), independently for every datum.

    Its sites are "z", of event shape (latent,), and "x", of event shape (D,), in a plate "data".

    Args:
        prior: a lazy distribution over the latent, such as a spec's `build(latent)`.
        decoder: a network (..., latent) → (..., D).
        likelihood: the distribution over x that the decoder's outputs parametrize.

    References:
        Kingma & Welling (2014), "Auto-Encoding Variational Bayes".
    """

    def __init__(self, prior: LazyDistribution, decoder: nn.Module, likelihood: Likelihood) -> None:
        super().__init__()
        self.prior = prior
        self.decoder = decoder
        self.likelihood = likelihood

    def forward(self, x: Tensor | None = None, size: int | None = None) -> Tensor:
        """The model: observes x of shape (N, D), or generates `size` new data.

        Raises:
            FlowvaeError: if neither is given, or for data of another shape or type.
        """
        declare_parameters("model", self)
        with pyro.plate("data", batch_size(x, size, self)):
            z = pyro.sample("z", to_pyro(self.prior()))
            likelihood = self.decode(z)
            if x is not None:
                check_rows("x", x, likelihood.event_shape[-1])
            return pyro.sample("x", likelihood, obs=x)

    def decode(self, z: Tensor) -> dist.TorchDistribution:
        """p(x | z) for codes of shape (..., latent)."""
        return self.likelihood(self._decoded(z))

    def mean(self, z: Tensor) -> Tensor:
        """E[x | z] for codes of shape (..., latent), shape (..., D): the picture that a code stands for."""
        return self.likelihood.mean(self._decoded(z))

    @torch.no_grad()
    @in_eval_mode
    def generate(self, size: int) -> tuple[Tensor, Tensor]:
        """Codes (size, latent) from the prior, and E[x | z] for them, (size, D), in evaluation mode."""
        z = self.prior().sample((size,))
        return z, self.mean(z)

    def _decoded(self, z: Tensor) -> Tensor:
        """What the decoder gives for codes (..., latent), shape (..., D).

        It sees them in one row each: with several draws a datum, a layer that takes its channels from the second
        axis, such as batch normalization or a convolution, would mix draws and data.
        """
        rows = self.decoder(z.reshape(-1, z.shape[-1]))
        return rows.reshape(*z.shape[:-1], rows.shape[-1])
