"""The flow of a guide reads the encoder's features, whatever the network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Size, Tensor, nn

from flowvae.flows import IAF, CouplingNSF, RealNVP
from flowvae.guides import AmortizedGuide, FlowGuide
from flowvae.networks import MLP, Conv, GatedConv, ResNet

pytestmark = pytest.mark.usefixtures("float64")
IMAGE, LATENT = Size((1, 9, 7)), 3
NETWORKS = [MLP((8,)), MLP((8,), gated=True), Conv((4,), 6), GatedConv((3,), 6), ResNet((4,), 6, blocks=1)]
FLOWS = [IAF(transforms=1), RealNVP(transforms=2), CouplingNSF(transforms=2)]


def guide(network: Any, flow: Any, conditioned: bool) -> AmortizedGuide:
    """A guide whose flow is not the identity, which flows start as."""
    encoder = network.build(IMAGE)
    width = encoder(torch.zeros(2, *IMAGE)).shape[1]
    made = AmortizedGuide(encoder, FlowGuide(flow, conditioned=conditioned).build(LATENT, width))
    with torch.no_grad():
        for parameter in made.head.transform.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made


def transformed(made: AmortizedGuide, x: Tensor) -> tuple[Tensor, Tensor]:
    """The flow of each data point at one fixed point, with its log-determinant."""
    transform: Any = made.head(made.features(x)).transform
    return transform.call_and_ladj(torch.linspace(-0.5, 0.5, LATENT).expand(len(x), -1))


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.family)
@pytest.mark.parametrize("network", NETWORKS, ids=str)
def test_a_conditioned_flow_changes_with_x_and_a_static_one_does_not(network: Any, flow: Any) -> None:
    x = torch.randn(2, *IMAGE)
    values, ladj = transformed(guide(network, flow, conditioned=True), x)
    assert (values[0] - values[1]).abs().max() > 1e-6
    assert (ladj[0] - ladj[1]).abs() > 1e-6
    static, ladj = transformed(guide(network, flow, conditioned=False), x)
    torch.testing.assert_close(static[0], static[1])
    torch.testing.assert_close(ladj[0], ladj[1])


@pytest.mark.parametrize("network", NETWORKS, ids=str)
def test_the_encoder_learns_from_the_flow(network: Any) -> None:
    """The gradient of the log-determinant alone reaches every parameter of the encoder, by way of its features."""
    made = guide(network, RealNVP(transforms=2), conditioned=True)
    _, ladj = transformed(made, torch.randn(16, *IMAGE))
    ladj.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in made.encoder.parameters())
    # and nothing but the features: with constant ones the flow is the same for all data points
    constant = AmortizedGuide(nn.Sequential(nn.Flatten(), _Constant(made.features(torch.zeros(1, *IMAGE)))), made.head)
    values, _ = transformed(constant, torch.randn(2, *IMAGE))
    torch.testing.assert_close(values[0], values[1])


class _Constant(nn.Module):
    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.features = features.detach()

    def forward(self, x: Tensor) -> Tensor:
        return self.features.expand(len(x), -1)
