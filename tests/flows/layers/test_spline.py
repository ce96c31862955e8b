"""The spline against zuko's own."""

from __future__ import annotations

import pytest
import torch
from zuko.transforms import MonotonicRQSTransform

from flowvae.flows.layers.spline import RationalQuadraticSpline


@pytest.mark.parametrize("bins", [2, 4, 8, 16])
def test_values_and_gradients_are_those_of_zuko(bins: int) -> None:
    x = 3 * torch.randn(7, 5, dtype=torch.float64)
    logits = [2 * torch.randn(7, 5, count, dtype=torch.float64) for count in (bins, bins, bins - 1)]
    found = []
    for family in (RationalQuadraticSpline, MonotonicRQSTransform):
        phi = [value.clone().requires_grad_() for value in logits]
        spline = family(*phi)
        y, ladj = spline.call_and_ladj(x)
        back = spline.inv(y)
        found.append([y, ladj, back, *torch.autograd.grad((y.sin() + ladj).sum(), phi)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


def test_the_layout_of_the_parameters_does_not_matter() -> None:
    x = torch.randn(3, 4)
    phi = [torch.randn(count, 3, 4).movedim(0, -1) for count in (4, 4, 3)]
    contiguous = [value.contiguous() for value in phi]
    torch.testing.assert_close(RationalQuadraticSpline(*phi)(x), RationalQuadraticSpline(*contiguous)(x))
