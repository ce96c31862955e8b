"""Importance weights of a model/guide pair, datum by datum: what every likelihood measure is made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from flowvae.errors import FlowvaeError, nearest
from flowvae.inference import MODES, Replay
from flowvae.seeds import derive, seeded

__all__ = ["COMPILE", "Draws", "importance_draws", "log_mean"]

ROWS = 64  # data a block: random numbers belong to a block, so no result depends on what fits into memory
COMPILE = ("none", *MODES)
DRAWS = 250  # draws that are in memory at a time


@dataclass(frozen=True)
class Draws:
    """Draws from the guide for a block of B data, with their log-densities in nats, shape (S, B).

    Args:
        code: z, shape (S, B, latent).
        log_likelihood: log p(x | z).
        log_prior: log p(z).
        log_guide: log q(z | x).
    """

    code: Tensor
    log_likelihood: Tensor
    log_prior: Tensor
    log_guide: Tensor

    @property
    def log_weight(self) -> Tensor:
        """Log p(x, z) − log q(z | x), shape (S, B)."""
        return self.log_likelihood + self.log_prior - self.log_guide


@torch.no_grad()
def importance_draws(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    x: Tensor,
    draws: int,
    seed: int,
    compile: str = "none",  # noqa: A002  (torch's own word)
) -> Iterator[Draws]:
    """Draw from the guide for every datum, block after block of the data.

    Args:
        model: Pyro model with sites "z" and "x" in one plate.
        guide: Pyro guide with site "z".
        x: data, shape (N, D).
        draws: S, how many for each datum.
        seed: decides them.
        compile: "none", "capture" or "inductor". For whole blocks the tensor operations are then captured once and
            repeated. Operations on 16,000 codes at a time leave little to win but for inductor, which halves the time
            of an NSF prior and takes 5 to 40 seconds first: it pays from some thousand data on.

    Raises:
        FlowvaeError: for fewer than one draw, or another `compile`.
    """
    if draws < 1:
        raise FlowvaeError(f"draws = {draws}: must be 1 or more.")
    if compile not in COMPILE:
        raise FlowvaeError(f"compile = {compile!r}: {nearest(compile, COMPILE)}")
    most = min(DRAWS, draws)
    whole: Callable[[Tensor], Tensor] = partial(_draw, model, guide, most)
    if compile != "none":
        whole = Replay(whole, compile)
    for number, block in enumerate(x.split(ROWS)):
        with seeded(derive(seed, "draws", number)), pyro.validation_enabled(False):
            parts = [whole(block) for _ in range(draws // most)]
            if draws % most:
                parts.append(_draw(model, guide, draws % most, block))
        together = torch.cat(parts)
        yield Draws(together[..., 3:], *together[..., :3].unbind(-1))


def log_mean(log_weight: Tensor) -> tuple[Tensor, Tensor]:
    """Log of the mean weight, and the weights' relative variance, over the first axis: (S, ...) → (...), (...).

    The relative variance V = Var(w) / mean(w)² tells everything about the error of log mean w by the delta method: its
    variance is V / S, its bias −V / (2 S), and S / (1 + V) draws are effective. V itself is at most S − 1, which it
    reaches where one draw has all the weight.
    """
    draws = len(log_weight)
    total = log_weight.double().logsumexp(0)
    effective = (2 * total - (2 * log_weight.double()).logsumexp(0)).exp()
    return total - math.log(draws), (draws / effective - 1).clamp_min(0)


def _draw(model: Callable[..., Any], guide: Callable[..., Any], draws: int, x: Tensor) -> Tensor:
    """Log p(x | z), log p(z), log q(z | x) and z itself, side by side: shape (draws, B, 3 + latent)."""
    plate = pyro.plate("draws", draws, dim=-2)
    guide_trace = poutine.trace(plate(guide)).get_trace(x)
    model_trace = poutine.trace(poutine.replay(plate(model), trace=guide_trace)).get_trace(x)
    guide_trace.compute_log_prob(_is_latent)
    model_trace.compute_log_prob(lambda name, site: name in ("x", "z"))
    sites = (model_trace.nodes["x"], model_trace.nodes["z"], guide_trace.nodes["z"])
    logs = torch.stack([site["log_prob"].expand(draws, len(x)) for site in sites], dim=-1)
    code = guide_trace.nodes["z"]["value"]
    return torch.cat([logs, code.expand(draws, len(x), code.shape[-1])], dim=-1)


def _is_latent(name: str, site: Any) -> bool:
    return name == "z"
