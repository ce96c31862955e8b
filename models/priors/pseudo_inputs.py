"""Pseudo-inputs: learned points of the data space, whose posteriors are the components of a prior."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from zuko.lazy import LazyDistribution

from flowvae.core.errors import FlowvaeError, shown
from flowvae.core.seeds import seeded
from flowvae.data.batch import Source
from flowvae.models.priors.mixture_density import ComponentMixture
from flowvae.networks import Reference, eval_mode

__all__ = ["DataSummary", "OnGrid", "PseudoInputPrior", "PseudoInputs", "Table", "check_guide", "summary_of"]

ROWS = 2000  # training data points of a summary, at most
BLOCK = 100  # of them in memory at a time


class DataSummary(NamedTuple):
    """Summary of training data: smallest and largest value (scalars), mean and standard deviation of each dimension.

    The variance of a constant dimension is replaced by the mean variance of all dimensions, or by 1 if that is zero.
    """

    low: Tensor
    high: Tensor
    mean: Tensor
    deviation: Tensor


def summary_of(train: Tensor | Source) -> DataSummary:
    """Summarize up to 2000 random training data points, read in blocks; the caller sets the seed."""
    index = torch.randperm(len(train))[:ROWS]
    origin = train[index[:1]][0].double()  # constant dimensions have variance 0, and large offsets lose no digits
    total, square = torch.zeros_like(origin), torch.zeros_like(origin)
    lows, highs = [], []
    for part in index.split(BLOCK):
        x = train[part]
        lows.append(x.min())
        highs.append(x.max())
        moved = x.double() - origin
        total, square = total + moved.sum(0), square + moved.square().sum(0)
    mean, square = total / len(index), square / len(index)
    variance = (square - mean.square()).clamp_min(0)
    for other in (variance.mean(), torch.ones_like(origin)):
        variance = torch.where(variance > 0, variance, other)
    low, high = torch.stack(lows).min(), torch.stack(highs).max()
    return DataSummary(low, high, (origin + mean).to(low), variance.sqrt().to(low))


class PseudoInputPrior(LazyDistribution):
    """Mixture of the guide's posteriors of pseudo-inputs u_k, p(z) = Σ_k w_k q(z | u_k).

    Pseudo-inputs are always encoded in evaluation mode. In training mode, dropout and batch statistics would make the
    density random or dependent on the other pseudo-inputs, and these would change the running statistics of the data.

    Args:
        name: name of the spec, for error messages.
        components: K.
        weighted: whether the weights are learned; they start equal.
        make: function of the training data that builds a module whose call gives the pseudo-inputs, (K, *event). It
            is called with a seed drawn when the prior is built.
    """

    logits: Tensor

    def __init__(
        self, name: str, components: int, weighted: bool, make: Callable[[Tensor | Source], nn.Module]
    ) -> None:
        super().__init__()
        self.name = name
        self.make = make
        self.seed = int(torch.randint(2**31, ()))
        self.guide: Reference | None = None
        if weighted:
            self.logits = nn.Parameter(torch.zeros(components))
        else:
            self.register_buffer("logits", torch.zeros(components))

    def bind(self, guide: nn.Module, train: Tensor | Source) -> None:
        """Build the pseudo-inputs from the training data, and store a reference to the guide.

        Raises:
            FlowvaeError: for a guide that reads a condition, and for too few data.
        """
        check_guide(self.name, guide)
        with seeded(self.seed):
            self.inputs = self.make(train)
        self.guide = Reference(guide)

    def forward(self, c: Tensor | None = None) -> ComponentMixture:
        if self.guide is None:
            raise FlowvaeError(f"{self.name}: consists of the posteriors of a guide; call bind(guide, train) first.")
        guide, inputs = self.guide(), self.inputs()

        def draw(index: Tensor) -> Tensor:
            with eval_mode(guide):
                return guide.posterior(inputs[index]).sample()

        with eval_mode(guide):
            return ComponentMixture(guide.posterior(inputs), self.logits, draw)


def check_guide(name: str, guide: Any) -> None:
    """Check that a guide's posteriors do not depend on a condition, which pseudo-inputs do not have.

    Raises:
        FlowvaeError: if they do.
    """
    condition = getattr(guide, "condition", None)
    if condition is not None and (condition.encoder or condition.guide):
        raise FlowvaeError(
            f"{name} with {shown(condition)}: its components are posteriors of data points without a condition; set "
            "condition.encoder and condition.guide to false, or use another prior."
        )


class PseudoInputs(nn.Module):
    """Points u = mean + deviation · v in the data space, clamped to the range of the training data.

    In these units, optimizer steps are comparable for bits, counts and real numbers of any size.

    Args:
        standardized: module whose call gives v, shape (K, *event).
        data: summary of the training data.
    """

    low: Tensor
    high: Tensor
    mean: Tensor
    deviation: Tensor

    def __init__(self, standardized: nn.Module, data: DataSummary) -> None:
        super().__init__()
        self.standardized = standardized
        for name, value in data._asdict().items():
            self.register_buffer(name, value)

    def forward(self) -> Tensor:
        return (self.mean + self.deviation * self.standardized()).clamp(self.low, self.high)


class Table(nn.Module):
    """Values of any shape: a parameter, or a buffer if they are not trained."""

    values: Tensor

    def __init__(self, values: Tensor, trained: bool = True) -> None:
        super().__init__()
        if trained:
            self.values = nn.Parameter(values)
        else:
            self.register_buffer("values", values)

    def forward(self) -> Tensor:
        return self.values


class OnGrid(nn.Module):
    """The outputs of a network at the points (K, L) of a grid."""

    grid: Tensor

    def __init__(self, network: nn.Module, grid: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("grid", grid)

    def forward(self) -> Tensor:
        found: Tensor = self.network(self.grid)
        return found
