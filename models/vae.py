"""The variational autoencoder as a Pyro model."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Size, Tensor, nn
from zuko.lazy import LazyDistribution

from flowvae.core.errors import FlowvaeError, shown
from flowvae.core.parts import Condition
from flowvae.flows.pyro_adapter import to_pyro
from flowvae.models.checks import batch_size
from flowvae.networks import check_data, declare_parameters, fold, in_eval_mode

__all__ = ["VAE"]


class VAE(nn.Module):
    """Variational autoencoder: z ~ p(z), x ~ p(x | decoder(z)), optionally given a condition c.

    Its sites are "z", of event shape (D,), and "x", of the event shape of the data, in a plate "data". A prior with
    latent variables adds its sites before "z".

    Args:
        prior: a lazy distribution over codes (..., D), such as a spec's `build(D)`.
        decoder: a network (N, D) → (N, *parameter shape), or (N, *latent) → … where `latent` is a shape.
        likelihood: the lazy distribution over x that the decoder's outputs parametrize.
        condition: which parts read a condition; None: no condition.
        latent: shape of a code for the decoder; None: flat.
        names: names of the sites of code and data.
        standardize: a module that is applied to a condition before any part reads it; None: it is read unchanged.

    References:
        Kingma & Welling (2014), "Auto-Encoding Variational Bayes".
    """

    def __init__(
        self,
        prior: LazyDistribution,
        decoder: nn.Module,
        likelihood: LazyDistribution,
        condition: Condition | None = None,
        latent: Size | None = None,
        names: tuple[str, str] = ("z", "x"),
        standardize: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.prior = prior
        self.decoder = decoder
        self.likelihood = likelihood
        self.condition = condition
        self.latent = latent
        self.names = names
        self.standardize = standardize

    @property
    def latent_sites(self) -> tuple[str, ...]:
        """Names of the latent sites, in the order in which they are drawn."""
        above = getattr(self.prior, "latent_sites", None)
        return (*(above(self.names[0]) if above else ()), self.names[0])

    @property
    def low_precision(self) -> tuple[nn.Module, ...]:
        """Networks that may run in lower precision."""
        return (self.decoder,)

    def forward(self, x: Tensor | None = None, c: Tensor | None = None, size: int | None = None) -> Tensor:
        """Run the model: observe x of shape (N, *event), or generate `size` new data points.

        Args:
            x: data.
            c: condition, shape (N, C), for a conditional model.
            size: number of data points to generate, if there are neither data nor conditions.

        Raises:
            FlowvaeError: if none of these is given, or for data of another shape or type.
        """
        declare_parameters("model", self)
        with pyro.plate("data", batch_size(x, size, self, c=c)):
            return self.statements(x, c)

    def statements(self, x: Tensor | None = None, c: Tensor | None = None) -> Tensor:
        """Run the sample statements of the model, inside the plate."""
        code, data = self.names
        above = getattr(self.prior, "statements", None)
        if above is not None:
            z = above(code, *self.given("prior", c))
        else:
            z = pyro.sample(code, to_pyro(self.prior_given(c)))
        likelihood = self.decode(z, c)
        if x is not None:
            check_data(data, x, likelihood.event_shape)
        return pyro.sample(data, likelihood, obs=x)

    def prior_given(self, c: Tensor | None = None) -> torch.distributions.Distribution:
        """Return p(z), or p(z | c) with the batch shape of the condition, if the prior reads it."""
        return self.prior(*self.given("prior", c))

    def decode(self, z: Tensor, c: Tensor | None = None) -> dist.TorchDistribution:
        """Return p(x | z) for codes of shape (..., D)."""
        return self.likelihood(self._decoded(z, c))

    def mean(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """Compute E[x | z], the decoded data point, for codes (..., D), shape (..., *event)."""
        return self.likelihood.mean(self._decoded(z, c))

    @torch.no_grad()
    @in_eval_mode
    def generate(self, size: int | None = None, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Draw codes (size, D) from the prior, and compute E[x | z], (size, *event), in evaluation mode.

        Args:
            size: number of codes; not needed with a condition.
            c: condition (size, C), for a conditional model.

        Raises:
            FlowvaeError: if neither size nor condition is given or they differ in number, or if a condition is missing
                or unexpected.
        """
        prior, count = self.prior_given(c), batch_size(None, size, self, c=c)
        z = prior.sample() if prior.batch_shape else prior.sample(Size((count,)))
        return z, self.mean(z, c)

    def given(self, part: str, c: Tensor | None) -> tuple[Tensor, ...]:
        """Return the condition as that part of the model reads it, standardized; () if it reads none."""
        if self.condition is None and c is not None:
            raise FlowvaeError(f"c = {shown(c)}: this model takes no condition; leave c out.")
        if self.condition is None or not getattr(self.condition, part):
            return ()
        if c is None:
            raise FlowvaeError(f"c = None: the {part} of this model is conditional; give c, shape (N, C).")
        return (c if self.standardize is None else self.standardize(c),)

    def _decoded(self, z: Tensor, c: Tensor | None) -> Tensor:
        """Decode codes (..., D) to the parameters of the likelihood.

        The leading axes are folded into one: with several draws per data point, a layer whose channels are the second
        axis, such as batch normalization or a convolution, would otherwise mix draws and data points.
        """
        if self.latent is not None and len(self.latent) > 1:
            z = z.reshape(*z.shape[:-1], *self.latent)
        inner = 1 if self.latent is None else len(self.latent)
        return fold(self.decoder, z, inner, *self.given("decoder", c))
