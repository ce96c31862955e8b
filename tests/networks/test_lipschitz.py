"""A network with a bounded Lipschitz constant."""

from __future__ import annotations

import pytest
import torch
from torch import Size

from flowvae import FlowvaeError
from flowvae.networks import Lipschitz, check_network


@pytest.mark.parametrize("outputs", [Size((2,)), None], ids=str)
@pytest.mark.parametrize("bound", [1.0, 3.0])
def test_slopes_stay_below_the_bound_for_all_weights(bound: float, outputs: Size | None) -> None:
    network = Lipschitz((16, 16), bound).build(Size((3,)), outputs)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(20)
    one, other = 3 * torch.randn(2000, 3), 3 * torch.randn(2000, 3)
    one[1000:] = other[1000:] + 0.01 * torch.randn(1000, 3)
    slopes = (network(one) - network(other)).norm(dim=-1) / (one - other).norm(dim=-1)
    assert slopes.max() <= bound * (1 + 1e-4)
    assert slopes.max() > 0.2 * bound


def test_it_comes_near_the_absolute_value() -> None:
    """With ReLU, a bounded network could not have the slope 1 on both sides."""
    network = Lipschitz((8, 8)).build(Size((1,)), Size((1,)))
    x = torch.linspace(-2, 2, 81)[:, None]
    optimizer = torch.optim.Adam(network.parameters(), 3e-2)
    for _ in range(150):
        loss = (network(x) - x.abs()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (network(x) - x.abs()).abs().max() < 0.1


@pytest.mark.parametrize(("outputs", "context"), [(None, 0), (Size((5,)), 0), (Size((1, 4)), 2)])
def test_it_keeps_the_contract_of_networks(outputs: Size | None, context: int) -> None:
    network = Lipschitz((6, 4)).build(Size((1, 3)), outputs, context)
    assert check_network("network", network, Size((1, 3)), outputs, context) == (outputs or Size((4,)))


def test_odd_widths_are_refused() -> None:
    with pytest.raises(FlowvaeError, match=r"\(6, 5\)"):
        Lipschitz((6, 5))
