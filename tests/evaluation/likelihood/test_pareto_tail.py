"""The fit of all tails at once against ArviZ's of one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from flowvae.evaluation.arviz.versions import psis
from flowvae.evaluation.likelihood.pareto_tail import pareto_k


def weights(draws: int) -> Tensor:
    """Log-weights of tails of every kind, (S, 9)."""
    generator = torch.Generator().manual_seed(draws)
    normal = torch.randn(draws, generator=generator, dtype=torch.float64)
    uniform = torch.rand(draws, generator=generator, dtype=torch.float64)
    exponential = -uniform.log()
    some = torch.zeros(draws, dtype=torch.float64)
    some[::7] = 1.0
    dominated = normal.clone()
    dominated[0] = 800.0
    few = torch.full((draws,), -torch.inf, dtype=torch.float64)
    few[: draws // 8] = normal[: draws // 8]
    columns = [normal, 3 * normal, 30 * normal, 0.7 * exponential, -uniform, some, dominated, few, normal.round()]
    return torch.stack(columns, 1)


@pytest.mark.parametrize("draws", [25, 26, 100, 1000, 5000])
def test_shapes_are_those_of_arviz(draws: int) -> None:
    log_weight = weights(draws)
    torch.testing.assert_close(pareto_k(log_weight), psis(log_weight)[1], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(pareto_k(log_weight - 5000), psis(log_weight)[1], rtol=1e-6, atol=1e-6)


def test_the_shape_of_a_pareto_tail() -> None:
    """w = U^−k has a tail of shape k."""
    uniform = torch.rand(20_000, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for shape in (0.2, 0.5, 0.9):
        assert pareto_k(-shape * uniform.log()).mean().item() == pytest.approx(shape, abs=0.05)


def test_without_a_tail() -> None:
    assert pareto_k(torch.randn(24, 3, 2)).isnan().all()
    assert (pareto_k(torch.full((100, 2), -3.0)) == -torch.inf).all()
    assert pareto_k(torch.randn(100, 3, 2)).shape == (3, 2)
