"""A flow inside the decoder, the equivalent form g∘T of a flow prior."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import Size, Tensor, nn
from zuko.lazy import LazyTransform

from flowvae.core.errors import FlowvaeError, shown
from flowvae.core.parts import NetworkSpec
from flowvae.flows import CouplingNSF, FlowSpec
from flowvae.flows.spec import warn_if_slow
from flowvae.networks import MLP, as_network

__all__ = ["FlowDecoder"]


@dataclass(frozen=True)
class FlowDecoder(NetworkSpec, name="flow-decoder"):
    """Decoder g∘T: a flow in its generative direction u → z, then a network z → x.

    With N(0, I) as prior of u this is the same generative model as the prior T_#N with the decoder g. Only the guide
    differs: it is Gaussian in u and not in z (Chen et al. 2017). Every training step evaluates T, so choose a family
    that is cheap in this direction: coupling, or `Inverse` of an autoregressive flow.

    Args:
        flow: T. It acts on flat codes; an image flow treats them as images of the shape `inputs`.
        network: g, settings of a network or an `nn.Module`. It reads the condition, if there is one; T does not.

    Raises:
        FlowvaeError: for a flow whose draws have no gradient, or if `network` is not a network.

    References:
        Chen, Kingma, Salimans, Duan, Dhariwal, Schulman, Sutskever & Abbeel (2017), "Variational Lossy Autoencoder".
    """

    flow: FlowSpec = field(default_factory=CouplingNSF)
    network: NetworkSpec = field(default_factory=MLP)

    def __post_init__(self) -> None:
        if not isinstance(self.flow, FlowSpec):
            raise FlowvaeError(f"FlowDecoder.flow = {shown(self.flow)}: must be a flow, such as CouplingNSF().")
        if "posterior" not in self.flow.roles:  # a decoder needs what a guide needs: draws with a gradient
            raise FlowvaeError(f"FlowDecoder.flow = {shown(self.flow)}: cannot be in a decoder: {self.flow.why_not}.")
        object.__setattr__(self, "network", as_network("FlowDecoder.network", self.network))

    def build(self, inputs: Size, outputs: Size | None = None, context: int = 0) -> nn.Module:
        features = math.prod(inputs)
        warn_if_slow(self.flow, features, "in a decoder")
        # built first, so that its initial weights are the same with and without the flow
        network = self.network.build(inputs, outputs, context)
        transform = self.flow.transform(inputs if self.flow.shaped else features)  # type: ignore[arg-type]
        return _ThroughFlow(transform, network, Size(inputs))


class _ThroughFlow(nn.Module):
    def __init__(self, transform: LazyTransform, network: nn.Module, inputs: Size) -> None:
        super().__init__()
        self.transform = transform
        self.network = network
        self.inputs = inputs

    @property
    def low_precision(self) -> tuple[nn.Module, ...]:
        """Networks that may run in lower precision: not those of the flow."""
        return (self.network,)

    def forward(self, u: Tensor, *condition: Tensor) -> Tensor:
        if len(self.inputs) == 1:
            return self.network(self.transform().inv(u), *condition)
        z = self.transform().inv(u.flatten(-len(self.inputs)))
        return self.network(z.reshape(u.shape), *condition)
