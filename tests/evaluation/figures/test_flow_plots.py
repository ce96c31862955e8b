"""Figures of flows, and the way between two data."""

from __future__ import annotations

from io import BytesIO

import pytest
import torch
from helpers import disturb
from matplotlib.figure import Figure
from torch import Size

from flowvae.core.errors import FlowvaeError
from flowvae.data import Digits, Moons
from flowvae.evaluation import interpolate, plot_density, plot_flow_interpolation, plot_flow_samples, plot_steps
from flowvae.flows import NSF, Glow, RealNVP
from flowvae.models import DequantizedFlow, FlowModel


def glow() -> DequantizedFlow:
    model = DequantizedFlow(Glow(steps=1, hidden_channels=8).transform(64), Size((1, 8, 8)), 16)
    disturb(model, 0.05)
    return model


def titles(figure: Figure) -> list[str]:
    """Draws the figure, too: some mistakes show only then."""
    figure.savefig(BytesIO())
    return [ax.get_title() for ax in figure.axes]


def test_interpolation_ends_at_its_data() -> None:
    x = Digits().load(0).test[:6]
    way = interpolate(glow(), x[:3], x[3:], steps=5)
    assert way.shape == (5, 3, 1, 8, 8)
    assert torch.equal(way[0], x[:3])
    assert torch.equal(way[-1], x[3:])
    with pytest.raises(FlowvaeError, match="steps = 1"):
        interpolate(glow(), x[:3], x[3:], steps=1)


@pytest.mark.usefixtures("float64")
def test_the_arc_keeps_the_distribution_of_the_base() -> None:
    model = FlowModel(RealNVP().transform(2), 2)  # the identity: data are base points
    first, last = torch.randn(2, 50_000, 2)
    way = interpolate(model, first, last, steps=3)
    torch.testing.assert_close(way.std(1), torch.ones(3, 2), rtol=0, atol=0.02)


def test_figures_of_images() -> None:
    data = Digits().load(0)
    assert len(titles(plot_flow_samples(glow(), data, (0.5, 0.7, 1.0)))) == 4
    assert len(titles(plot_flow_interpolation(glow(), data, pairs=3))) == 2
    with pytest.raises(FlowvaeError, match=r"\(1, 8, 8\)"):
        plot_steps(glow(), data)


def test_figures_in_the_plane() -> None:
    data = Moons(train=10, valid=10, test=50).load(0)
    model = FlowModel(NSF(transforms=3).transform(2), 2)
    disturb(model, 0.1)
    assert titles(plot_steps(model, data)) == [
        "base N(0, I)",
        *(f"after transform {i}" for i in (1, 2, 3)),
        "moons: test data",
    ]
    assert "true density" in titles(plot_density(model, data))
    with pytest.raises(FlowvaeError, match=r"\(2,\)"):
        plot_flow_samples(model, data)


def test_the_last_cloud_is_what_the_model_generates() -> None:
    data = Moons(train=10, valid=10, test=50).load(0)
    model = FlowModel(RealNVP(transforms=2).transform(2), 2)
    disturb(model, 0.3)
    figure = plot_steps(model, data)
    base, last = (torch.tensor(figure.axes[i].collections[0].get_offsets()) for i in (0, 2))
    torch.testing.assert_close(model.decode(base.float()), last.float())
