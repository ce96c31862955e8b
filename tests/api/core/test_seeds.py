"""Seeding is that of torch, and what follows a seeded block does not depend on it."""

from __future__ import annotations

import pytest
import torch

from flowvae.core.seeds import derive, seeded


@pytest.mark.parametrize("seed", [0, 7, derive(3, "encoder"), 2**48 - 1])
def test_a_seeded_block_draws_what_torch_draws_after_manual_seed(seed: int) -> None:
    torch.manual_seed(1)
    first = torch.rand(3)
    torch.manual_seed(1)
    with seeded(seed):
        found = torch.randn(5)
    assert torch.equal(torch.rand(3), first)
    torch.manual_seed(seed)
    assert torch.equal(torch.randn(5), found)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_seeded_block_seeds_the_gpu() -> None:
    before = torch.cuda.get_rng_state()
    with seeded(5):
        found = torch.randn(5, device="cuda")
    assert torch.equal(torch.cuda.get_rng_state(), before)
    torch.manual_seed(5)
    assert torch.equal(torch.randn(5, device="cuda"), found)
