"""The exercises of notebook 4 recognize common slips."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from flowvae.course.change_of_variables import (
    MAPS,
    STANDARD,
    Bend,
    Layer,
    Sinh,
    flow_log_density,
    layers,
    log_density,
    log_density_polar,
    logit,
    polar,
    volume,
    volume_preserving,
)
from flowvae.course.exercise import Exercise


def to_the_base(x: Tensor, stack: Sequence[Layer]) -> Tensor:
    for layer in reversed(stack):
        x = layer.inv(x)
    return x


def base_alone(x: Tensor, stack: Sequence[Layer]) -> Tensor:
    return STANDARD.log_prob(to_the_base(x, stack)).sum(-1)


def at_x(x: Tensor, stack: Sequence[Layer]) -> Tensor:
    return base_alone(x, stack) - sum(layer.log_abs_det_jacobian(x, x) for layer in stack)


def arguments_exchanged(x: Tensor, stack: Sequence[Layer]) -> Tensor:
    total = torch.zeros(len(x))
    for layer in reversed(stack):
        before = layer.inv(x)
        total = total + layer.log_abs_det_jacobian(x, before)
        x = before
    return STANDARD.log_prob(x).sum(-1) - total


@pytest.mark.parametrize(
    ("task", "slip", "reason"),
    [
        (logit, lambda x: log_density(x).exp(), "logarithm"),
        (logit, lambda x: STANDARD.log_prob(x.logit()), "base density alone"),
        (logit, lambda x: STANDARD.log_prob(x.logit()) + (x * (1 - x)).log(), "log|dx/du|"),
        (logit, lambda x: STANDARD.log_prob(x) - (x * (1 - x)).log(), "at x"),
        (logit, lambda x: STANDARD.log_prob(x.logit()) - x.log(), "two terms"),
        (logit, lambda x: STANDARD.log_prob(x.logit()) - (1 - x).log(), "1/x"),
        (logit, lambda x: STANDARD.log_prob(x.logit()) + 1 / (x * (1 - x)), "its logarithm"),
        (logit, lambda x: log_density(x).sum(), "(5,)"),
        (logit, lambda x: log_density(x) + 0.1, "0.1 nats"),
        (polar, lambda r, t: log_density_polar(r, t) - r.log(), "area"),
        (polar, lambda r, t: log_density_polar(r, t) - 2 * r.log(), "sign"),
        (polar, lambda r, t: log_density_polar(r, t) + r.log(), "once"),
        (polar, lambda r, t: log_density_polar(r, t).exp(), "logarithm"),
        (polar, lambda r, t: log_density_polar(r, t) + torch.tensor(2 * torch.pi).log(), "θ is uniform"),
        (polar, lambda r, t: log_density_polar(r, t) + torch.tensor(2 * torch.pi).log() / 2, "1/√(2π)"),
        (layers, base_alone, "base density alone"),
        (layers, lambda x, s: 2 * flow_log_density(x, s) - base_alone(x, s), "once per dimension"),
        (layers, lambda x, s: 2 * base_alone(x, s) - flow_log_density(x, s), "subtract"),
        (layers, at_x, "all of them at x"),
        (layers, arguments_exchanged, "exchanged"),
        (layers, lambda x, s: flow_log_density(x, s[::-1]), "backwards"),
        (layers, lambda x, s: flow_log_density(x, s)[:, None].expand(-1, 2), "(50,)"),
        (volume, "abcd", "d does not"),
        (volume, {"a", "b", "c", "e"}, "e does not"),
        (volume, "ab", "not all"),
        (volume, "ABCF", "'f'"),
    ],
)
def test_slips_are_named(task: Exercise, slip: Any, reason: str) -> None:
    outcome = task.check(slip)
    assert outcome.kind == "wrong"
    assert reason in outcome.text


def test_the_layers_invert_and_their_log_determinants_are_those_of_autograd() -> None:
    u = torch.randn(20, 2, dtype=torch.float64)
    for layer in (Bend(0), Bend(1), Sinh()):
        jacobians = torch.stack([torch.autograd.functional.jacobian(layer, point) for point in u])
        torch.testing.assert_close(layer.log_abs_det_jacobian(u, layer(u)), torch.linalg.slogdet(jacobians).logabsdet)
        torch.testing.assert_close(layer.inv(layer(u)), u)


def test_the_polar_density_integrates_to_one() -> None:
    r, theta = torch.linspace(0.0005, 7.9995, 8000), torch.tensor(1.0)
    mass = log_density_polar(r, theta).exp().sum() * 0.001 * 2 * torch.pi
    assert mass.item() == pytest.approx(1, abs=1e-4)


def test_three_of_the_maps_preserve_volume() -> None:
    assert volume_preserving() == {"a", "b", "c"}
    assert volume.check("a, b, c").kind == "right"
    assert len(MAPS) == 5
