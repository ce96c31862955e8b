"""An autoregressive model of data as a Pyro model: no latent, an exact likelihood."""

from __future__ import annotations

from dataclasses import dataclass, field

import pyro
import torch
from torch import Tensor, nn

from flowvae.core.errors import FlowvaeError
from flowvae.data import Dataset
from flowvae.models.checks import batch_size
from flowvae.models.likelihoods.autoregressive_distribution import AutoregressiveDistribution
from flowvae.models.likelihoods.autoregressive_likelihoods import (
    AutoregressiveLikelihood,
    AutoregressiveLikelihoodSpec,
    default_autoregressive_likelihood,
)
from flowvae.networks import MADE, CausalNetwork, CausalSpec, declare_parameters, in_eval_mode

__all__ = ["Autoregressive", "AutoregressiveModel"]


class AutoregressiveModel(nn.Module):
    """x ~ Π_i p(x_i | x_1, …, x_{i−1}), independently for every datum.

    Its site is "x", of event shape (D,), in a plate "data". There is no latent, so the ELBO with an empty
    guide is log p(x) itself, and SVI is maximum likelihood:

        fit(model, NoGuide(), data.train, data.valid, Inference(validation_draws=1))

    Args:
        network: gives the parameters of all D conditionals in one pass.
        head: the family of the conditionals.

    References:
        Germain et al. (2015); van den Oord et al. (2016); see the networks.
    """

    def __init__(self, network: CausalNetwork, head: AutoregressiveLikelihood) -> None:
        super().__init__()
        if network.parameters_each != head.parameters_each:
            raise FlowvaeError(
                f"the network gives {network.parameters_each} parameters a value and the head takes "
                f"{head.parameters_each}; build the network with parameters = {head.parameters_each}."
            )
        self.network = network
        self.head = head

    def forward(self, x: Tensor | None = None, size: int | None = None, context: Tensor | None = None) -> Tensor:
        """The model: observes x of shape (N, D), or generates `size` new data; context (N, C) if it takes one.

        Raises:
            FlowvaeError: if neither is given, or x has another shape or values outside the support.
        """
        if x is not None:
            self._check(x)
        declare_parameters("model", self)
        with pyro.plate("data", batch_size(x, size, self, self.network.features)):
            return pyro.sample("x", self.distribution(context), obs=x)

    def distribution(self, context: Tensor | None = None) -> AutoregressiveDistribution:
        """p(x | context), batch shape that of the context, event shape (D,)."""
        return AutoregressiveDistribution(self.network, self.head, context)

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Exact log p(x) in nats, (..., D) → (...): a log-probability for counts, a log-density for real data.

        Raises:
            FlowvaeError: for another shape or values outside the support.
        """
        self._check(x)
        return self.distribution(context).log_prob(x)

    @in_eval_mode
    def sample(self, size: int, context: Tensor | None = None, progress: bool = True) -> Tensor:
        """New data (size, D) by ancestral sampling: D passes of the network, without a gradient.

        Args:
            size: how many.
            context: shape (C,) for all or (size, C), if the model takes one.
            progress: whether to show a progress bar.

        Raises:
            FlowvaeError: for a size below 1, or contexts of another number.
        """
        if size < 1:
            raise FlowvaeError(f"size = {size}: must be 1 or more.")
        if context is not None and context.ndim > 1 and context.shape[:-1] != (size,):
            raise FlowvaeError(f"context: shape {tuple(context.shape)} for size = {size}; must be (C,) or ({size}, C).")
        joint = self.distribution(context)
        return joint.expand(torch.Size((size,))).sample(progress=progress)

    def _check(self, x: Tensor) -> None:
        features = self.network.features
        if x.shape[-1:] != (features,):
            raise FlowvaeError(f"x: shape {tuple(x.shape)}; must be (N, {features}), as the model was built.")
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
        head: the family of the conditionals; none: the one that fits the data's likelihood.
    """

    network: CausalSpec = field(default_factory=MADE)
    head: AutoregressiveLikelihoodSpec | None = None

    def build(self, data: Dataset, context: int = 0) -> AutoregressiveModel:
        """The model of these data, given a context (..., C) if C is not zero.

        Raises:
            FlowvaeError: if the head is for other numbers, or the network needs images and the data are none.
        """
        head = (self.head or default_autoregressive_likelihood(data.likelihood)).build(data.likelihood, data.train)
        network = self.network.network(data.features, head.parameters_each, context, data.image_shape)
        return AutoregressiveModel(network, head)
