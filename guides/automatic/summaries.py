"""Draws and quantiles of all latent variables of a guide."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext

import pyro
import torch
from torch import Tensor

from flowvae.core.memory import check_memory

__all__ = ["check_draws", "draw_in_blocks", "quantiles_of", "split"]

BLOCK = 1000  # largest number of draws in a block, which bounds the memory of the flow
AT_ONCE = 10**5  # largest number of latent numbers in a block


def check_draws(draws: int, numbers: int, like: Tensor) -> None:
    """Check that a number of draws of all latent numbers fits into memory.

    Raises:
        FlowvaeError: if they do not.
    """
    needed = 3 * draws * numbers * like.element_size()  # unconstrained, constrained, sorted
    check_memory(f"draws = {draws} of {numbers} latent numbers", needed, "give AutoFlow fewer draws")


def split(draws: int, block: int = BLOCK) -> Iterator[int]:
    """Split a number of draws into blocks."""
    for start in range(0, draws, block):
        yield min(block, draws - start)


def draw_in_blocks(
    draw: Callable[[], Mapping[str, Tensor]], draws: int, numbers: int, depth: int, together: bool
) -> Iterator[tuple[int, Mapping[str, Tensor]]]:
    """Repeat a Pyro program in blocks under an outer plate; yield the size of each block and the program's result.

    Args:
        draw: the program.
        draws: number of draws.
        numbers: latent numbers per draw, which determine the size of blocks.
        depth: number of plate dimensions of the program.
        together: whether the program can run under an outer plate; if not, each block is one draw without a plate.
    """
    block = min(BLOCK, max(1, AT_ONCE // numbers)) if together else 1
    for count in split(draws, block):
        with pyro.plate("_draws", count, dim=-1 - depth) if count > 1 else nullcontext():
            yield count, draw()


def quantiles_of(value: Tensor, levels: list[float] | Tensor) -> Tensor:
    """Compute quantiles over the first dimension, in blocks of columns, since torch limits the size of the input."""
    wanted = torch.as_tensor(levels, dtype=value.dtype, device=value.device)
    if not value.numel():
        return value.new_empty(len(wanted), *value.shape[1:])
    columns = value.reshape(len(value), -1).split(max(1, 10**7 // len(value)), dim=1)
    return torch.cat([each.quantile(wanted, dim=0) for each in columns], 1).reshape(len(wanted), *value.shape[1:])
