"""Draws of a guide with their log-densities, in blocks that stay in the processor's cache."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Size, Tensor

from flowvae.core.errors import FlowvaeError, nearest, shown
from flowvae.data.batch import Batch
from flowvae.inference import Replay
from flowvae.inference.log_density import Draws, draw_latents, repeated, score_rows

__all__ = ["COMPILE", "Sampler", "draws_at_once", "joined"]

COMPILE = ("capture", "inductor", "none")
# Values of the data that are scored together, 2 MB in float32, which fit into the cache. In blocks of 50 MB a Bernoulli
# likelihood takes four times as long; in much smaller ones Python's overhead dominates.
VALUES = 512_000
LEAST_FEATURES = 256  # for small data, whose hidden layers are wider than the data


class Sampler:
    """Draws S codes for each of B data points from a guide, and scores them by guide and model.

    The guide draws for all data points at once; the model scores blocks of draws, with one row per pair of draw and
    data point. Both are captured as programs of tensor operations (`Replay`), if possible.

    Args:
        model: Pyro model whose latent sites are all in one plate of the data.
        guide: Pyro guide with the same latent sites, in one plate of the data.
        compile: "capture"; "inductor" to compile the programs as well; or "none" to run Pyro for every block.

    Raises:
        FlowvaeError: for an unknown `compile`.
    """

    def __init__(self, model: Callable[..., Any], guide: Callable[..., Any], compile: str = "capture") -> None:  # noqa: A002
        if compile not in COMPILE:
            raise FlowvaeError(f"compile = {shown(compile)}: {nearest(compile, COMPILE)}")
        self.model = model
        self.guide = guide
        self.compile = compile
        self._sites: dict[str, tuple[Size, torch.dtype]] = {}
        self._drawn: dict[int, Callable[..., Tensor]] = {}  # for each number of draws
        self._scored = self._program(self._score)

    @torch.no_grad()
    def __call__(self, batch: Batch, draws: int) -> Draws:
        """Draw S codes for each data point.

        Args:
            batch: B data points.
            draws: S.

        Raises:
            FlowvaeError: for a site whose log-density is not one number per draw and data point, a latent that only
                model or guide has, a guide without a density, or sites under `poutine.scale`.
        """
        if draws not in self._drawn:
            self._drawn[draws] = self._program(lambda *args: self._draw(Batch(*args), draws))
        drawn = self._drawn[draws](*batch.args)
        codes, log_guide = drawn[..., 1:], drawn[..., 0]
        step = draws_at_once(batch, draws)
        rows = repeated(batch, step)
        parts = []
        for part in codes.split(step):
            whole = rows if len(part) == step else repeated(batch, len(part))
            parts.append(self._scored(*whole.args, part))
        log_likelihood, log_prior = torch.cat(parts).unbind(-1)
        return Draws(self._unpacked(codes), log_likelihood, log_prior, log_guide)

    def _program(self, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return function if self.compile == "none" else Replay(function, self.compile)

    def _draw(self, batch: Batch, draws: int) -> Tensor:
        """Log-density and values of draws, shape (S, B, 1 + number of latent values)."""
        latents, log_guide = draw_latents(self.guide, batch, draws)
        self._sites = {name: (value.shape[2:], value.dtype) for name, value in latents.items()}
        lead = log_guide.shape
        return torch.cat([log_guide.unsqueeze(-1), *(value.reshape(*lead, -1) for value in latents.values())], dim=-1)

    def _score(self, *args: Tensor) -> Tensor:
        """Log-likelihood and log-prior, shape (S, B, 2), of data repeated S times and packed values (S, B, L)."""
        *data, codes = args
        shape = (codes.shape[0], codes.shape[1])
        values = {name: value.flatten(0, 1) for name, value in self._unpacked(codes).items()}
        found = score_rows(self.model, Batch(*data), values, shape)
        return torch.stack([found.observed.expand(shape), found.latent.expand(shape)], dim=-1)

    def _unpacked(self, codes: Tensor) -> Mapping[str, Tensor]:
        """The values of each site, shape (S, B, *event shape)."""
        sizes = [shape.numel() for shape, _ in self._sites.values()]
        parts = codes.split(sizes, dim=-1) if sizes else ()
        pairs = zip(self._sites.items(), parts, strict=True)
        return {name: part.reshape(*codes.shape[:2], *shape).to(dtype) for (name, (shape, dtype)), part in pairs}


def draws_at_once(batch: Batch, draws: int) -> int:
    """Number of draws per data point that are scored together, for the fewest equal parts of S that fit the cache."""
    values = len(batch) * max(batch.args[0][0].numel(), LEAST_FEATURES)
    return math.ceil(draws / math.ceil(draws / max(1, VALUES // values)))


def joined(parts: list[Draws]) -> Draws:
    """Concatenate draws for the same data points."""
    if len(parts) == 1:
        return parts[0]
    latents = {name: torch.cat([part.latents[name] for part in parts]) for name in parts[0].latents}
    logs = ((part.log_likelihood, part.log_prior, part.log_guide) for part in parts)
    return Draws(latents, *map(torch.cat, zip(*logs, strict=True)))
