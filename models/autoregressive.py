"""Autoregressive models of data as Pyro models, with an exact likelihood."""

from __future__ import annotations

from dataclasses import dataclass, field

import pyro
import torch
from torch import Size, Tensor, nn

from flowvae.core.errors import FlowvaeError
from flowvae.data import Dataset
from flowvae.models.checks import batch_size
from flowvae.models.likelihoods.autoregressive_distribution import AutoregressiveDistribution
from flowvae.models.likelihoods.autoregressive_likelihoods import (
    AutoregressiveLikelihood,
    AutoregressiveLikelihoodSpec,
    default_autoregressive_likelihood,
)
from flowvae.networks import MADE, CausalNetwork, CausalSpec, check_event_shape, declare_parameters, in_eval_mode

__all__ = ["Autoregressive", "AutoregressiveModel"]


class AutoregressiveModel(nn.Module):
    """Autoregressive model of data, x ~ Π_i p(x_i | x_1, …, x_{i−1}), with the values in raster order.

    Its site is "x", of the event shape of the data, in a plate "data". There is no latent variable, so the ELBO with an
    empty guide is log p(x) itself, and SVI is maximum likelihood:

        fit(model, NoGuide(), data.train, data.valid, Training(validation_draws=1))

    Args:
        network: gives the parameters of all D conditionals in one pass.
        head: the family of the conditionals.
        shape: event shape of the data.

    Raises:
        FlowvaeError: if network and head differ in the number of parameters per value.

    References:
        Germain et al. (2015); van den Oord et al. (2016); see the networks.
    """

    def __init__(self, network: CausalNetwork, head: AutoregressiveLikelihood, shape: Size) -> None:
        super().__init__()
        if network.parameters_each != head.parameters_each:
            raise FlowvaeError(
                f"the network gives {network.parameters_each} parameters per value and the head takes "
                f"{head.parameters_each}; build the network with parameters = {head.parameters_each}."
            )
        self.network = network
        self.head = head
        self.shape = Size(shape)

    def forward(self, x: Tensor | None = None, c: Tensor | None = None, size: int | None = None) -> Tensor:
        """Run the model: observe x of shape (N, *shape), or generate `size` new data points.

        A conditional model takes c of shape (N, C).

        Raises:
            FlowvaeError: if x, c and size are all missing, or x has another shape or values outside the support.
        """
        if x is not None:
            self._check(x)
        declare_parameters("model", self)
        with pyro.plate("data", batch_size(x, size, self, self.shape, c)):
            return pyro.sample("x", self.distribution(c), obs=x)

    def distribution(self, c: Tensor | None = None) -> AutoregressiveDistribution:
        """Return p(x | c), with the batch shape of the condition and the event shape of the data."""
        return AutoregressiveDistribution(self.network, self.head, self.shape, c)

    def log_prob(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """Compute the exact log p(x) in nats, (..., *shape) → (...).

        It is a log-probability for counts, and a log-density for real data.

        Raises:
            FlowvaeError: for data of another shape or values outside the support.
        """
        self._check(x)
        return self.distribution(c).log_prob(x)

    @in_eval_mode
    def sample(self, size: int, c: Tensor | None = None, progress: bool = True) -> Tensor:
        """Draw new data (size, *shape) by ancestral sampling: one network pass per value, without a gradient.

        Args:
            size: number of data points.
            c: condition of shape (C,) for all or (size, C), if the model takes one.
            progress: whether to show a progress bar.

        Raises:
            FlowvaeError: for a size below 1, or another number of conditions.
        """
        if size < 1:
            raise FlowvaeError(f"size = {size}: must be 1 or more.")
        if c is not None and c.ndim > 1 and c.shape[:-1] != (size,):
            raise FlowvaeError(f"c: shape {tuple(c.shape)} for size = {size}; must be (C,) or ({size}, C).")
        joint = self.distribution(c)
        return joint.expand(Size((size,))).sample(progress=progress)

    def _check(self, x: Tensor) -> None:
        check_event_shape("x", x, self.shape)
        bad = self.head.likelihood.violations(x) | ~torch.isfinite(x)
        if bad.any():
            raise FlowvaeError(
                f"x: value {x[bad][0].item():g} ({int(bad.sum())} such values); must be "
                f"{self.head.likelihood.support} ({self.head.likelihood})."
            )


@dataclass(frozen=True)
class Autoregressive:
    """Settings of an autoregressive model: a network and a head.

    Args:
        network: MADE, WaveNet or PixelCNN.
        head: the family of the conditionals; None: the one that fits the data's likelihood.
    """

    network: CausalSpec = field(default_factory=MADE)
    head: AutoregressiveLikelihoodSpec | None = None

    def build(self, data: Dataset, context: int = 0) -> AutoregressiveModel:
        """Build the model of a data set, given a condition of size `context` (0: none).

        Raises:
            FlowvaeError: if the head does not fit the data, or the network needs images and the data are not images.
        """
        head = (self.head or default_autoregressive_likelihood(data.likelihood)).build(data.likelihood, data.train)
        network = self.network.build(data.shape, head.parameters_each, context)
        return AutoregressiveModel(network, head, data.shape)
