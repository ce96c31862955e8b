"""A flow inside the decoder: what a flow prior is, told the other way round."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn
from zuko.lazy import LazyTransform

from flowvae.core.errors import FlowvaeError, shown
from flowvae.flows import FlowSpec
from flowvae.flows.spec import warn_if_slow
from flowvae.networks import MLP

__all__ = ["FlowDecoder"]


@dataclass(frozen=True)
class FlowDecoder:
    """g ∘ T: a flow in its generative direction u → z, then a network z → x.

    With N(0, I) as prior of u this is the same generative model as the prior T_#N with the decoder g; what differs is
    the guide, which is Gaussian in u and not in z (Chen et al. 2017). Every step of the training draws through T, so
    a family that is cheap in this direction belongs here: coupling, or `Inverse` of an autoregressive flow.

    Args:
        flow: T.
        mlp: g.

    References:
        Chen, Kingma, Salimans, Duan, Dhariwal, Schulman, Sutskever & Abbeel (2017), "Variational Lossy Autoencoder".
    """

    flow: FlowSpec
    mlp: MLP = field(default_factory=MLP)

    def __post_init__(self) -> None:
        if not isinstance(self.flow, FlowSpec):
            raise FlowvaeError(f"FlowDecoder.flow = {shown(self.flow)}: must be a flow, such as CouplingNSF().")
        if "posterior" not in self.flow.roles:  # what a guide needs, a decoder needs: draws with a gradient
            raise FlowvaeError(f"FlowDecoder.flow = {shown(self.flow)}: cannot be in a decoder: {self.flow.why_not}.")
        if not isinstance(self.mlp, MLP):
            raise FlowvaeError(f"FlowDecoder.mlp = {shown(self.mlp)}: must be an MLP object.")

    def network(self, inputs: int, outputs: int) -> nn.Module:
        """The decoder, (..., inputs) → (..., outputs)."""
        warn_if_slow(self.flow, inputs, "in a decoder")
        # the network first: from the same random numbers it starts as it would without the flow
        network = self.mlp.network(inputs, outputs)
        return _ThroughFlow(self.flow.transform(inputs), network)


class _ThroughFlow(nn.Module):
    def __init__(self, transform: LazyTransform, network: nn.Module) -> None:
        super().__init__()
        self.transform = transform
        self.network = network

    def forward(self, u: Tensor) -> Tensor:
        return self.network(self.transform().inv(u))
