"""Rendered shapes against areas, centroids and symmetries that geometry knows."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq

from flowvae import FlowvaeError, Sprites
from flowvae.data.simulated.sprites import SHAPES, render


def factors(shape: int, x: float = 0.5, y: float = 0.5, scale: float = 0.3, angle: float = 0.0) -> torch.Tensor:
    return torch.tensor([[shape, x, y, scale, angle]])


def heart_area() -> float:
    """∫ r²/2 dφ of the sextic (a² + b² − 1)³ = a² b³, whose size is 1/1.2 of it."""
    angles = np.linspace(0, 2 * math.pi, 4001)[:-1]

    def edge(angle: float) -> float:
        a, b = math.cos(angle), math.sin(angle)
        return brentq(lambda r: r**2 - 1 - b * np.cbrt(r**5 * a**2), 1e-6, 2.0)

    radii = np.array([edge(angle) for angle in angles])
    return float((radii**2).mean() * math.pi) / 1.2**2


@pytest.mark.parametrize(("shape", "area"), [(0, 1.6**2), (1, math.pi * 0.55), (2, heart_area())], ids=SHAPES)
@pytest.mark.parametrize("side", [16, 28])
def test_counts_add_up_to_the_area(shape: int, area: float, side: int) -> None:
    for scale, angle in ((0.18, 0.3), (0.25, 2.0), (0.32, 5.1)):
        share = render(factors(shape, 0.47, 0.52, scale, angle), side).sum().item() / 16 / side**2
        assert share == pytest.approx(area * scale**2, rel=0.03)


@pytest.mark.parametrize("shape", range(3), ids=SHAPES)
def test_a_quarter_turn_of_the_angle_turns_the_picture(shape: int) -> None:
    upright = render(factors(shape, angle=0.3), 16).reshape(16, 16)
    turned = render(factors(shape, angle=0.3 + math.pi / 2), 16).reshape(16, 16)
    different = (torch.rot90(upright) != turned).sum()
    other_way = (torch.rot90(upright, -1) != turned).sum()
    # a point on an edge may fall to either side
    assert min(different, other_way) <= 2


@pytest.mark.parametrize("shape", [0, 1], ids=SHAPES[:2])
def test_a_symmetric_shape_has_its_centroid_at_its_centre(shape: int) -> None:
    image = render(factors(shape, 0.35, 0.6, 0.25, 0.7), 28).reshape(28, 28)
    place = (torch.arange(28) + 0.5) / 28
    x = (image.sum(0) * place).sum() / image.sum()
    y = (image.sum(1) * place).sum() / image.sum()
    assert (x.item(), y.item()) == pytest.approx((0.35, 0.6), abs=0.003)


def test_no_shape_leaves_the_picture() -> None:
    data = Sprites(train=3000, valid=1, test=1).load(0)
    images = data.train.reshape(-1, 16, 16)
    border = torch.cat((images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]), 1)
    assert (border == 0).float().mean() > 0.9
    assert (images.sum((1, 2)) > 0).all()
    assert data.factors is not None
    assert data.factors["train"].shape == (3000, 5)
    counts = torch.bincount(data.factors["train"][:, 0].long())
    assert counts.sum() == 3000
    assert (counts - 1000).abs().max() < 4 * math.sqrt(3000 * 2 / 9)


def test_seeds_draw_train_and_leave_test() -> None:
    spec = Sprites(train=20, valid=5, test=5)
    a, b, again = spec.load(0), spec.load(1), spec.load(0)
    assert torch.equal(a.test, b.test)
    assert torch.equal(a.train, again.train)
    assert not torch.equal(a.train, b.train)
    assert not torch.equal(a.train[:5], a.valid)
    assert a.identity == again.identity
    with pytest.raises(FlowvaeError, match="must be 16 or 28"):
        Sprites(side=17)
