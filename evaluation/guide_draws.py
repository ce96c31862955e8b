"""Draws from the guide of any Pyro model, with their importance weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from flowvae.errors import FlowvaeError, nearest
from flowvae.inference.batch_and_match import plate_depth
from flowvae.seeds import derive, seeded

__all__ = ["GuideDraws", "guide_draws"]

BLOCK = 1000  # draws that go through the model at a time; random numbers belong to a block


@dataclass(frozen=True)
class GuideDraws:
    """Draws from a guide.

    Args:
        values: constrained, by site, each of shape (S, *site).
        log_weight: log p(x, z) − log q(z) in nats, shape (S,); its mean is the ELBO.
    """

    values: dict[str, Tensor]
    log_weight: Tensor


@torch.no_grad()
def guide_draws(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    sites: Sequence[str],
    draws: int = 10_000,
    args: tuple[Any, ...] = (),
    seed: int = 0,
) -> GuideDraws:
    """Draw from a guide, and run its model on the draws.

    Args:
        model: a Pyro model that allows plates around it.
        guide: its guide.
        sites: of the model, sampled or deterministic, whose values are wanted.
        draws: S.
        args: arguments of model and guide.
        seed: decides the draws.

    Raises:
        FlowvaeError: for a site that the model does not have, or fewer than one draw.
    """
    if draws < 1:
        raise FlowvaeError(f"draws = {draws}: must be 1 or more.")
    with seeded(derive(seed, "guide draws")), pyro.validation_enabled(False):
        depth = plate_depth(model, *args)
        blocks = [
            _block(model, guide, sites, min(BLOCK, draws - start), depth, args) for start in range(0, draws, BLOCK)
        ]
    return GuideDraws(
        {name: torch.cat([block.values[name] for block in blocks]) for name in sites},
        torch.cat([block.log_weight for block in blocks]),
    )


def _block(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    sites: Sequence[str],
    draws: int,
    depth: int,
    args: tuple[Any, ...],
) -> GuideDraws:
    plate = pyro.plate("draws", draws, dim=-1 - depth)
    guide_trace = poutine.trace(plate(guide)).get_trace(*args)
    model_trace = poutine.trace(poutine.replay(plate(model), trace=guide_trace)).get_trace(*args)
    total = torch.zeros(())
    for trace, sign in ((model_trace, 1), (guide_trace, -1)):
        trace.compute_log_prob()
        for name, site in trace.nodes.items():
            if site["type"] == "sample" and name != "draws":
                each = site["log_prob"].expand(draws, *site["log_prob"].shape[1:])
                total = total + sign * each.reshape(draws, -1).sum(-1)
    values = {}
    for name in sites:
        if name not in model_trace.nodes:
            known = [key for key, site in model_trace.nodes.items() if site["type"] == "sample"]
            raise FlowvaeError(f"site {name!r}: the model has none of that name; {nearest(name, known)}")
        value = model_trace.nodes[name]["value"]
        # singleton dimensions of plates that the site is not in lie between draws and site
        inner = value.shape[1 : 1 + depth]
        kept = [size for size in inner if size > 1]
        values[name] = value.expand(draws, *value.shape[1:]).reshape(draws, *kept, *value.shape[1 + depth :])
    return GuideDraws(values, total)
