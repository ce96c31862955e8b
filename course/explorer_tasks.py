"""Exercises of notebook 7: the explorer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from flowvae.core.seeds import seeded
from flowvae.course.exercise import Wrong, answered, exercise
from flowvae.course.judging import look_for_slips
from flowvae.evaluation import from_base, to_base
from flowvae.flows import MAF


def share_in_holes(log_q_draws: Tensor, log_q_codes: Tensor) -> float:
    """The threshold is a quantile over the codes of the data; the draws of the prior below it are counted."""
    return (log_q_draws < log_q_codes.quantile(0.05)).double().mean().item()


@exercise(
    share_in_holes,
    hints=(
        "The threshold is a quantile, of which of the two?",
        "Count the draws below the threshold, and divide by the number of draws: the mean of a comparison.",
    ),
)
def share(answer: Callable[[Tensor, Tensor], Any]) -> str:
    """Judges a function (log q̄ at draws, log q̄ at codes) → share of the draws in holes."""
    with seeded(0):
        codes = torch.randn(400) - 3
        draws = torch.cat((torch.randn(500) - 3, 3 * torch.randn(300) - 12))
    found = torch.as_tensor(answered(answer(draws, codes)), dtype=torch.float)
    if found.dim():
        raise Wrong(f"the shape is {tuple(found.shape)}; the exercise asks for one number, a mean.")
    right = share_in_holes(draws, codes)
    slips = {
        "5 % comes out for every prior if threshold and share belong to the same values: the codes set the threshold, "
        "and the share is that of the draws.": 0.05,
        "this is the share outside of holes.": 1 - right,
        "the exercise asks for a share, not for per cent.": 100 * right,
        "this is a number of draws; divide by how many there are.": len(draws) * right,
        "a hole begins where 5 % of the codes have a *lower* density; you took the 95 % quantile.": (
            (draws < codes.quantile(0.95)).float().mean()
        ),
        "the lowest code is the threshold, so one outlier decides. Take the 5 % quantile.": (
            (draws < codes.min()).float().mean()
        ),
    }
    otherwise = f"{found:.3f} is not the share. First the 5 % quantile of the codes, then the draws below it."
    look_for_slips(found, right, slips, rtol=0, atol=2e-3, otherwise=otherwise)
    return "For p = q̄ it would be 0.05, whatever the dimension."


def midpoints(prior: Any, z_a: Tensor, z_b: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of the codes, and the code T(u) of the mean of the base points."""
    return (z_a + z_b) / 2, from_base(prior, (to_base(prior, z_a) + to_base(prior, z_b)) / 2)


@exercise(
    midpoints,
    hints=(
        "Halfway on a straight line is the mean of both ends.",
        "For the second: both codes to the base, then the mean, then back to code space.",
    ),
)
@torch.no_grad()
def halfway(answer: Callable[[Any, Tensor, Tensor], tuple[Tensor, Tensor]]) -> str:
    """Judges a function (prior, z_a, z_b) → midpoint in code space, midpoint through the base."""
    with seeded(0):
        lazy = MAF(transforms=2, hidden_features=(8,)).build(2)
        for parameter in lazy.parameters():  # off the identity
            parameter.add_(0.5 * torch.randn_like(parameter))
        u_a, u_b = torch.randn(2, 20, 2)
    prior = lazy()
    z_a, z_b = from_base(prior, u_a), from_base(prior, u_b)
    found = answered(answer(prior, z_a, z_b))
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise Wrong("return a pair, (midpoint in code space, midpoint through the base).")
    straight, around = found
    middle, mean = (u_a + u_b) / 2, (z_a + z_b) / 2
    right = from_base(prior, middle)

    def same(value: Tensor, other: Tensor) -> bool:
        return value.shape == other.shape and torch.allclose(value, other, atol=1e-3)

    if not same(straight, mean):
        if same(straight, right):
            raise Wrong("the first is the way through the base; exchange the two.")
        raise Wrong("the first: halfway between two codes is their mean.")
    slips = {
        "the second is the point of the base; carry it back to code space with from_base.": middle,
        "the second is the straight way once more; take the mean after to_base.": mean,
        "the second: both codes go to the base first, and the mean is taken there.": from_base(prior, mean),
        "the second: the mean is taken in code space and then moved to the base.": to_base(prior, mean),
        "the second: the directions are exchanged; to_base takes codes, from_base takes base points.": to_base(
            prior, (from_base(prior, z_a) + from_base(prior, z_b)) / 2
        ),
    }
    for reason, value in slips.items():
        if same(around, value):
            raise Wrong(reason)
    if not same(around, right):
        raise Wrong("the second is T of the mean of the two base points; yours is something else.")
    return f"The two midpoints are {(right - mean).norm(dim=-1).mean():.2f} apart on average under this flow."
