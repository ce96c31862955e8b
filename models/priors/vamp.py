"""VampPrior: a variational mixture of posteriors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from zuko.lazy import LazyDistribution

from flowvae.core.errors import FlowvaeError, check_bool, check_choice, check_int
from flowvae.core.parts import PriorSpec
from flowvae.data.batch import Source
from flowvae.models.priors.pseudo_inputs import PseudoInputPrior, PseudoInputs, Table, summary_of

__all__ = ["VampPrior"]

NOISE = 0.01  # of the initial pseudo-inputs, in standard deviations of the data


@dataclass(frozen=True)
class VampPrior(PriorSpec, name="vamp"):
    """Mixture of the guide's posteriors of K pseudo-inputs, p(z) = (1/K) Σ_k q(z | u_k).

    With all training data as pseudo-inputs it is the aggregated posterior. Every training step passes K pseudo-inputs
    through the encoder, in evaluation mode, and computes the density of every code under K posteriors. This works with
    any guide. It is cheap for Gaussians and coupling flows; an inverse autoregressive flow takes D passes
    (`Cost.density`). Trained jointly, the gradient also reaches the encoder through the prior. In a second stage only
    pseudo-inputs and weights are fitted: the components are as narrow as posteriors of the fixed encoder, so that a few
    of them can fit the aggregated posterior less well than N(0, I) does.

    Learned pseudo-inputs stay between the smallest and the largest value of (up to 2000) training data points, like the
    paper's hardtanh for pixels: in [0, 1] for bits, not below 0 for counts. For real data they can leave the range of a
    single dimension, but not the common range of all dimensions.

    Args:
        components: K.
        inputs: "learned", or "data": random training data, which are not trained.
        start: learned pseudo-inputs start as "data", random training data, or as the "mean" of the training data, both
            with noise of 0.01 standard deviations.
        weighted: whether the weights of the components are learned too; they start equal.

    Raises:
        FlowvaeError: for settings out of range, or a start other than "data" with inputs "data".

    References:
        Tomczak & Welling (2018), "VAE with a VampPrior".
    """

    title: ClassVar[str] = "mixture of the guide's posteriors of pseudo-inputs"
    paper: ClassVar[str] = "Tomczak & Welling 2018"
    conditional: ClassVar[bool] = False
    follows_guide: ClassVar[bool] = True

    components: int = 50
    inputs: str = "learned"
    start: str = "data"
    weighted: bool = False

    def __post_init__(self) -> None:
        check_int(self, "components")
        check_choice(self, "inputs", ("learned", "data"))
        check_choice(self, "start", ("data", "mean"))
        check_bool(self, "weighted")
        if self.inputs == "data" and self.start != "data":
            raise FlowvaeError(
                f"VampPrior.start = {self.start!r} with inputs = 'data': they are training data; use start = 'data'."
            )
        object.__setattr__(self, "trainable", self.inputs == "learned" or self.weighted)

    def build(self, features: int, context: int = 0) -> LazyDistribution:
        return PseudoInputPrior("VampPrior", self.components, self.weighted, self._inputs)

    def _inputs(self, train: Tensor | Source) -> nn.Module:
        """Build the pseudo-inputs.

        Raises:
            FlowvaeError: if they are or start as training data, and there are fewer of these.
        """
        if self.start == "data" and self.components > len(train):
            raise FlowvaeError(
                f"VampPrior.components = {self.components}: must be {len(train)} at most, the number of training data; "
                "or use start = 'mean'."
            )
        data = summary_of(train)
        chosen = torch.randperm(len(train))[: self.components]
        if self.inputs == "data":
            return Table(train[chosen].clone(), trained=False)
        middle = train[chosen] if self.start == "data" else data.mean.expand(self.components, *data.mean.shape)
        values = middle + NOISE * data.deviation * torch.randn(middle.shape, dtype=middle.dtype)
        # values outside are reflected: on the flat part of the clamp they would have no gradient
        values = data.low + (values - data.low).abs()
        values = data.high - (data.high - values).abs()
        return PseudoInputs(Table((values - data.mean) / data.deviation), data)
