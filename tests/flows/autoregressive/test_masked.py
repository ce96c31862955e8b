"""Masked autoregressive transforms: zuko's, and autoregressive where they differ."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import zuko

from flowvae.flows import IAF, NSF
from flowvae.flows.autoregressive.masked import masked_autoregressive


def both(features: int, context: int, **settings: Any) -> tuple[Any, Any]:
    """Our transform and zuko's, from the same seed."""
    torch.manual_seed(0)
    ours = masked_autoregressive(features, context, **settings)
    torch.manual_seed(0)
    return ours, zuko.flows.MAF(features, context, **settings).transform


@pytest.mark.parametrize(
    ("features", "context", "hidden", "passes"),
    [(5, 0, (8,), None), (5, 3, (8, 7), None), (6, 0, (32,), 2), (7, 2, (9, 9), 3), (33, 0, (32,), None)],
)
def test_weights_and_masks_are_those_of_zuko(features: int, context: int, hidden: Any, passes: int | None) -> None:
    ours, theirs = both(features, context, transforms=2, hidden_features=hidden, passes=passes)
    state, expected = ours.state_dict(), theirs.state_dict()
    assert state.keys() == expected.keys()
    for name, value in state.items():
        assert torch.equal(value, expected[name]), name
    x = torch.randn(4, features)
    c = torch.randn(4, context) if context else None
    assert torch.equal(ours(c)(x), theirs(c)(x))
    assert torch.equal(ours(c).inv(x), theirs(c).inv(x))


@pytest.mark.parametrize("hidden", [(8,), (8, 5)])
def test_few_hidden_units_are_spread_over_the_features(hidden: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    transform = masked_autoregressive(40, transforms=1, hidden_features=hidden)
    with torch.no_grad():
        for parameter in transform.parameters():
            parameter.abs_().add_(0.1)  # so that no dependence cancels
    jacobian = torch.autograd.functional.jacobian(transform(), torch.rand(40))
    assert torch.equal(jacobian, jacobian.tril())
    depends = jacobian.tril(-1) != 0
    assert depends[-1].sum() > 25  # zuko: 8, the first ones
    assert depends[5:].any(-1).all()


def test_building_takes_no_matrix_of_all_pairs_of_features() -> None:
    for flow in (IAF(), NSF()):
        with torch.device("meta"):
            sizes = [value.numel() for value in flow.transform(200_000).state_dict().values()]
        assert max(sizes) == 200_000 * 32 * (2 if isinstance(flow, IAF) else 11)
