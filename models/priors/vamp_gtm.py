"""VampPrior whose pseudo-inputs are a smooth function of a grid."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn
from zuko.lazy import LazyDistribution

from flowvae.core.errors import FlowvaeError, check_bool, check_int, shown
from flowvae.core.parts import NetworkSpec, PriorSpec
from flowvae.data.batch import Source
from flowvae.models.priors.grid import regular_grid
from flowvae.models.priors.gtm import MOST_POINTS
from flowvae.models.priors.pseudo_inputs import OnGrid, PseudoInputPrior, PseudoInputs, summary_of
from flowvae.networks import MLP, check_network

__all__ = ["VampGTM"]


@dataclass(frozen=True)
class VampGTM(PriorSpec, name="vamp-gtm"):
    """Mixture of the guide's posteriors of pseudo-inputs on a curve or surface, p(z) = (1/K) Σ_k q(z | g(u_k)).

    The u_k are a regular grid in 1 or 2 dimensions and g is a network into the space of the data, with outputs in units
    of the training data and clamped to their range. The rest is as in `VampPrior`: any guide, K more passes through the
    encoder in every step, in evaluation mode; in a second stage only g and the weights are fitted.

    Args:
        dimensions: number of dimensions of the grid, 1 or 2.
        points: grid points per side, K = points^dimensions.
        network: g.
        weighted: whether the weights of the components are learned too; they start equal.

    Raises:
        FlowvaeError: for settings out of range.

    References:
        Tomczak (2022), "Deep Generative Modeling", chapter 4; Tomczak & Welling (2018), "VAE with a VampPrior".
    """

    title: ClassVar[str] = "mixture of the guide's posteriors of pseudo-inputs on a smooth surface"
    paper: ClassVar[str] = "Tomczak 2022"
    conditional: ClassVar[bool] = False
    follows_guide: ClassVar[bool] = True

    dimensions: int = 2
    points: int = 7
    network: NetworkSpec = field(default_factory=MLP)
    weighted: bool = False

    def __post_init__(self) -> None:
        check_int(self, "dimensions", most=2)
        check_int(self, "points", most=MOST_POINTS)
        check_bool(self, "weighted")
        if not isinstance(self.network, NetworkSpec):
            raise FlowvaeError(f"VampGTM.network = {shown(self.network)}: must be a NetworkSpec object, such as MLP().")

    def build(self, features: int, context: int = 0) -> LazyDistribution:
        return PseudoInputPrior("VampGTM", self.points**self.dimensions, self.weighted, self._inputs)

    def _inputs(self, train: Tensor | Source) -> nn.Module:
        grid = regular_grid(self.points, self.dimensions)
        shape = train.shape[1:]
        network = self.network.build(grid.shape[1:], shape)
        check_network("VampGTM.network", network, grid.shape[1:], shape)
        return PseudoInputs(OnGrid(network, grid), summary_of(train))
