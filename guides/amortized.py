"""Amortized guides, from encoder features to a distribution over the code."""

from __future__ import annotations

import pyro
import torch
from torch import Tensor, nn
from zuko.lazy import LazyDistribution

from flowvae.core.errors import FlowvaeError, shown
from flowvae.core.parts import Condition
from flowvae.flows.pyro_adapter import to_pyro
from flowvae.guides.local_parameters import local_parameters
from flowvae.networks import Reference, check_data, declare_parameters, fold, input_shape

__all__ = ["AmortizedGuide"]


class AmortizedGuide(nn.Module):
    """Amortized guide, z ~ q(z | encoder(x)): site "z" in a plate "data".

    With a prior that has latent variables, the guide is q(z | x) q(z2 | z), or draws z2 first if the prior has a
    method `guide_above`.

    Args:
        encoder: a network (N, *event) → (N, *features), flattened for the head.
        head: a lazy distribution over the code given the encoder's features (..., context).
        condition: which of encoder and head read a condition; None: no condition.
        name: name of the site.
        standardize: a module that is applied to a condition before any part reads it; None: it is read unchanged.
    """

    def __init__(
        self,
        encoder: nn.Module,
        head: LazyDistribution,
        condition: Condition | None = None,
        name: str = "z",
        standardize: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.condition = condition
        self.name = name
        self.standardize = standardize
        self.prior: Reference | None = None  # to a prior whose latent variables this guide draws too

    @property
    def low_precision(self) -> tuple[nn.Module, ...]:
        """Networks that may run in lower precision."""
        return (self.encoder,)

    def forward(self, x: Tensor, c: Tensor | None = None, size: int | None = None) -> Tensor:
        """Run the guide for data of shape (N, *event); takes the model's arguments, as Pyro requires.

        Raises:
            FlowvaeError: for data of another shape or type, or a condition that is missing or unexpected.
        """
        self.check(x)
        if c is not None and len(check_data("c", c, None, self.encoder)) != len(x):
            raise FlowvaeError(f"c: {len(c)} conditions for {len(x)} data points; give one condition for each.")
        declare_parameters("guide", self)
        posterior = self._of_encoder(x, c)  # outside the plate: it may run the model, which has the same plate
        above = None if self.prior is None else self.prior()
        with pyro.plate("data", len(x)):
            before = getattr(above, "guide_above", None)
            if before is not None:
                posterior = before(self.name, posterior, *self._given("prior", c))
            z: Tensor = pyro.sample(self.name, posterior)
            if before is None and above is not None:
                above.guide_statements(self.name, z, *self._given("prior", c))
        return z

    def check(self, x: object) -> None:
        """Check that x is a batch of data (N, *event) for this guide.

        Raises:
            FlowvaeError: for data of another shape or type.
        """
        check_data("x", x, input_shape(self.encoder), self.encoder)

    def posterior(self, x: Tensor, c: Tensor | None = None) -> pyro.distributions.TorchDistribution:
        """Compute q(z | x) for data of shape (..., *event)."""
        posterior = self._of_encoder(x, c)
        marginal = None if self.prior is None else getattr(self.prior(), "marginal", None)
        return posterior if marginal is None else marginal(self.name, posterior, *self._given("prior", c))

    def _of_encoder(self, x: Tensor, c: Tensor | None) -> pyro.distributions.TorchDistribution:
        """Compute the head's distribution of z: q(z | x), unless the guide also depends on the prior."""
        return to_pyro(self.head(self.features(x, c)))

    def features(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """Compute the head's inputs (..., context): the encoder's features and, if the head reads it, the condition."""
        shape = input_shape(self.encoder)
        inner = x.ndim - 1 if shape is None else len(shape)
        found = fold(self.encoder, x, inner, *self._given("encoder", c))
        lead = x.ndim - inner
        features = found if found.ndim == lead + 1 else found.flatten(lead)
        for condition in self._given("guide", c):
            features = torch.cat((features, condition.expand(*features.shape[:-1], -1)), -1)
        return features

    def _given(self, part: str, c: Tensor | None) -> tuple[Tensor, ...]:
        """Return the condition as that part of the guide reads it, standardized; () if it reads none."""
        if self.condition is None and c is not None:
            raise FlowvaeError(f"c = {shown(c)}: this guide takes no condition; call guide(x).")
        if self.condition is None or not getattr(self.condition, part):
            return ()
        if c is None:
            raise FlowvaeError(f"c = None: the {part} is conditional; call guide(x, c), with c of shape (N, C).")
        return (c if self.standardize is None else self.standardize(c),)

    def local(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the head's inputs and its `local_parameters`, which determine q(z | x), for data (N, *event)."""
        features = self.features(x, c)
        return features, local_parameters(self.head, features)
