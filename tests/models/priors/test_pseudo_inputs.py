"""Summaries of training data, and pseudo-inputs in their units."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from flowvae.models.priors.pseudo_inputs import PseudoInputs, Table, summary_of


def test_the_summary_of_some_data() -> None:
    x = torch.randn(1500, 2, 3) * torch.tensor([1.0, 10.0, 0.1]) + 5
    found = summary_of(x)
    assert found.low == x.min()
    assert found.high == x.max()
    assert torch.allclose(found.mean, x.mean(0), atol=1e-5)
    assert torch.allclose(found.deviation, x.std(0, correction=0), rtol=1e-5)


@pytest.mark.usefixtures("float64")
def test_large_offsets_lose_no_digits() -> None:
    x = 1e9 + torch.randn(500, 4)
    assert torch.allclose(summary_of(x).deviation, x.std(0, correction=0), rtol=1e-6)


def test_constant_dimensions_have_the_unit_of_all_or_one() -> None:
    x = torch.full((100, 3), 0.1)
    assert torch.equal(summary_of(x).deviation, torch.ones(3))
    x[:, 0] = torch.arange(100.0)
    deviation = summary_of(x).deviation
    assert torch.allclose(deviation[1:], deviation[0] / 3**0.5)


class _Read:
    """A source that remembers the largest batch that was read."""

    dtype = torch.float32

    def __init__(self, x: Tensor) -> None:
        self.x, self.shape, self.largest = x, x.shape, 0

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: Tensor) -> Tensor:
        self.largest = max(self.largest, len(index))
        return self.x[index]


def test_a_source_is_read_in_batches() -> None:
    x = torch.randn(5000, 3)
    source = _Read(x)
    found = summary_of(source)  # type: ignore[arg-type]
    assert source.largest == 100
    assert torch.allclose(found.mean, x.mean(0), atol=0.1)


def test_pseudo_inputs_stay_in_the_range_of_the_data() -> None:
    x = torch.tensor([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
    data = summary_of(x)
    v = torch.tensor([[-9.0, 0.5], [0.1, 9.0]], requires_grad=True)
    found = PseudoInputs(Table(v.detach()), data)()
    expected = (data.mean + data.deviation * v).clamp(0, 1)
    assert torch.allclose(found, expected)
    assert found[0, 0] == 0
    assert found[1, 1] == 1
